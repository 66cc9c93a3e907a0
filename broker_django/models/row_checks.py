"""Validate the rows of routers and destinations, with each message at its field."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.http.request import validate_host
from django.urls.converters import get_converters
from django.utils.translation import gettext

from broker_core.errors import ConfigurationError
from broker_core.routing import Action, StickyBy, check_url, condition_of, methods_of
from broker_core.routing.sources import Source
from broker_core.texts import Text
from broker_django.conf import conf
from broker_django.models.texts import translated

if TYPE_CHECKING:
    from collections.abc import Callable


class RouterRow(Protocol):
    """The fields of a router to check."""

    source: Any
    condition: Any
    methods: Any
    sticky_by: Any
    sticky_name: Any
    queue: Any
    action: Any


class DestinationRow(Protocol):
    """The fields of a destination to check, and its router."""

    url: Any
    router: Any


def check_router(row: RouterRow) -> None:
    """Raises ValidationError."""
    errors: dict[str, str] = {}
    _collect(errors, "source", lambda: source_of(row.source))
    _collect(errors, "condition", lambda: condition_of(row.condition))
    _collect(errors, "methods", lambda: methods_of(row.methods))
    _collect(errors, "sticky_name", lambda: sticky_by_of(row.sticky_by, row.sticky_name))
    if row.queue and row.queue not in conf.queues:
        errors["queue"] = _unknown_queue(row.queue)
    if row.action == Action.PROXY and not conf.ENABLE_PROXY_ROUTING:
        errors["action"] = gettext("Proxies are disabled: see ENABLE_PROXY_ROUTING.")
    if errors:
        raise ValidationError(errors)


def check_destination(row: DestinationRow) -> None:
    """Raises ValidationError."""
    try:
        action = action_of(row.router.action)
    except (ObjectDoesNotExist, ConfigurationError):
        return  # reported for the router's own field
    errors: dict[str, str] = {}
    if action is Action.QUEUE and row.url not in conf.queues:
        errors["url"] = _unknown_queue(row.url)
    else:
        _collect(errors, "url", lambda: check_url(row.url, action, conf.queues, host_is_allowed))
    if errors:
        raise ValidationError(errors)


def _unknown_queue(queue: str) -> str:
    text = gettext("There is no queue {queue!r}. The queues are {known}.")
    return text.format(queue=queue, known=", ".join(conf.queues))


def _collect(errors: dict[str, str], field: str, check: Callable[[], Any]) -> None:
    try:
        check()
    except ConfigurationError as error:
        text = translated(error.args[0])
        errors[field] = f"{text[:1].upper()}{text[1:]}."


def source_of(text: str) -> Source:
    """Returns the source, parsed with the project's registered path converters. Raises ConfigurationError."""
    return _source_of(text, tuple(get_converters()))


@lru_cache(maxsize=20_000)
def _source_of(text: str, _converters: tuple[str, ...]) -> Source:
    return Source.parse(text, {name: converter.regex for name, converter in get_converters().items()})


def action_of(action: str) -> Action:
    """Raises ConfigurationError."""
    try:
        return Action(action)
    except ValueError as error:
        raise ConfigurationError(Text("there is no action {action!r}", action=action)) from error


def sticky_by_of(sticky_by: str, sticky_name: str) -> StickyBy:
    """Raises ConfigurationError."""
    try:
        found = StickyBy(sticky_by)
    except ValueError as error:
        raise ConfigurationError(Text("there is no sticky_by {sticky_by!r}", sticky_by=sticky_by)) from error
    if found is StickyBy.HEADER and not sticky_name:
        raise ConfigurationError(Text("sticky by a header field requires the field's name"))
    return found


def host_is_allowed(host: str) -> bool:
    """Whether a redirect may lead to this external host. ALLOWED_REDIRECT_HOSTS uses the patterns of ALLOWED_HOSTS."""
    return validate_host(host, conf.ALLOWED_REDIRECT_HOSTS)
