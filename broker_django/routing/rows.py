"""Rows of routers and destinations, checked and compiled into what decides."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.http.request import validate_host
from django.urls.converters import get_converters

from broker_core import routing
from broker_core.errors import ConfigurationError
from broker_core.routing import Action, StickyBy, check_url, condition_of, methods_of
from broker_core.sources import Source
from broker_django.conf import conf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker_django.models import Destination, Router

_condition_of = lru_cache(maxsize=20_000)(condition_of)
"""Thousands of routers often share a few conditions, and most stay as they are when one row changes."""


def compiled(row: Router, destinations: Iterable[Destination]) -> routing.Router:
    """Raises ConfigurationError, with the reason, for a row that can decide nothing."""
    action = action_of(row)
    active = [destination for destination in destinations if destination.is_active]
    for destination in active:
        _check_destination(destination, action)
    if row.queue and row.queue not in conf.queues:
        raise ConfigurationError(f"there is no queue {row.queue!r}")
    if row.rank < 1:
        raise ConfigurationError("a rank is 1 or more")
    return routing.Router(
        code=row.code,
        source=source_of(row.source),
        action=action,
        destinations=tuple(
            routing.Destination(str(each.pk), each.url, each.weight, each.carry_params, each.append_params)
            for each in active
        ),
        rank=row.rank,
        condition=_condition_of(row.condition),
        methods=methods_of(row.methods),
        queue=row.queue,
        sticky_by=_sticky_by(row),
        sticky_name=row.sticky_name,
    )


def source_of(text: str) -> Source:
    """The source, with the converters that the project registered. Raises ConfigurationError."""
    return _source_of(text, tuple(get_converters()))


@lru_cache(maxsize=20_000)
def _source_of(text: str, _converters: tuple[str, ...]) -> Source:
    return Source.parse(text, {name: converter.regex for name, converter in get_converters().items()})


def action_of(row: Router) -> Action:
    try:
        return Action(row.action)
    except ValueError as error:
        raise ConfigurationError(f"there is no action {row.action!r}") from error


def _sticky_by(row: Router) -> StickyBy:
    try:
        sticky_by = StickyBy(row.sticky_by)
    except ValueError as error:
        raise ConfigurationError(f"nothing is sticky by {row.sticky_by!r}") from error
    if sticky_by is StickyBy.HEADER and not row.sticky_name:
        raise ConfigurationError("to be sticky by a header field needs its name")
    return sticky_by


def _check_destination(row: Destination, action: Action) -> None:
    if row.weight < 0:
        raise ConfigurationError("a weight is 0 or more")
    check_url(row.url, action, conf.queues, host_is_allowed)


def host_is_allowed(host: str) -> bool:
    """Whether a redirect may leave the site for this host: those of `ALLOWED_REDIRECT_HOSTS`, as in ALLOWED_HOSTS."""
    return validate_host(host, conf.ALLOWED_REDIRECT_HOSTS)


# For forms: the same checks, with the message at the field


def check_router(row: Router) -> None:
    """Raises ValidationError."""
    errors: dict[str, str] = {}
    _note(errors, "source", lambda: source_of(row.source))
    _note(errors, "condition", lambda: condition_of(row.condition))
    _note(errors, "methods", lambda: methods_of(row.methods))
    _note(errors, "sticky_name", lambda: _sticky_by(row))
    if row.queue and row.queue not in conf.queues:
        errors["queue"] = _there_are(row.queue)
    if row.action == Action.PROXY and not conf.ENABLE_PROXY_ROUTING:
        errors["action"] = "Proxies are switched off: see ENABLE_PROXY_ROUTING."
    if errors:
        raise ValidationError(errors)


def check_destination(row: Destination) -> None:
    """Raises ValidationError."""
    try:
        action = action_of(row.router)
    except (ObjectDoesNotExist, ConfigurationError):
        return  # the router's own field has the message
    errors: dict[str, str] = {}
    if action is Action.QUEUE and row.url not in conf.queues:
        errors["url"] = _there_are(row.url)
    else:
        _note(errors, "url", lambda: check_url(row.url, action, conf.queues, host_is_allowed))
    if errors:
        raise ValidationError(errors)


def _there_are(queue: str) -> str:
    return f"There is no queue {queue!r}; there are {', '.join(conf.queues)}."


def _note(errors: dict[str, str], field: str, check: Callable[[], Any]) -> None:
    try:
        check()
    except ConfigurationError as error:
        text = str(error)
        errors[field] = f"{text[:1].upper()}{text[1:]}."


def broken(row: Router) -> str:
    """Why this row decides nothing; empty where it does."""
    try:
        compiled(row, row.destinations.all())
    except ConfigurationError as error:
        return str(error)
    return ""
