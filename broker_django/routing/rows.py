"""Compile the rows of routers and destinations into the objects that decide."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from broker_core import routing
from broker_core.errors import ConfigurationError
from broker_core.routing import Action, check_url, condition_of, methods_of
from broker_core.texts import Text
from broker_django.conf import conf
from broker_django.models.row_checks import action_of, host_is_allowed, source_of, sticky_by_of
from broker_django.models.texts import translated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_django.models import Destination, Router

_condition_of = lru_cache(maxsize=20_000)(condition_of)
"""Thousands of routers often share a few conditions, and most conditions stay the same when one row changes."""


def compiled(row: Router, destinations: Iterable[Destination]) -> routing.Router:
    """Returns the compiled router. Raises ConfigurationError, with the reason, if the row has an error."""
    action = action_of(row.action)
    active = [destination for destination in destinations if destination.is_active]
    for destination in active:
        _check_destination(destination, action)
    if row.queue and row.queue not in conf.queues:
        raise ConfigurationError(Text("there is no queue {queue!r}", queue=row.queue))
    if row.rank < 1:
        raise ConfigurationError(Text("the rank must be 1 or more"))
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
        sticky_by=sticky_by_of(row.sticky_by, row.sticky_name),
        sticky_name=row.sticky_name,
    )


def _check_destination(row: Destination, action: Action) -> None:
    if row.weight < 0:
        raise ConfigurationError(Text("the weight must be 0 or more"))
    check_url(row.url, action, conf.queues, host_is_allowed)


def error_of(row: Router) -> str:
    """Returns the error of this row, translated; empty if it has none."""
    try:
        compiled(row, row.destinations.all())
    except ConfigurationError as error:
        return translated(error.args[0])
    return ""
