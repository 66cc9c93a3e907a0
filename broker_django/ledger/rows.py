"""The rows of the ledger, read as dispatches."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, Q

from broker_core.dispatches import WORKER_LENGTH, Dispatch, Run, SealedRequest, State
from broker_core.dispatches.events import Event
from broker_django.ledger import statements
from broker_django.models import DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from django.db.models import QuerySet
    from django.db.models.constants import OnConflict

    from broker_core.dispatches import Selection
    from broker_core.dispatches.events import Events, Kind

_COLUMNS: Any = tuple(each.name for each in fields(Dispatch) if each.name != "keeps_response")
_STATE = _COLUMNS.index("state")
_KEEPS_RESPONSE = ExpressionWrapper(Q(kept_response__isnull=False), output_field=BooleanField())
_WIDTH = len(_COLUMNS) + 1


_SEALED = {"sealed": "content", "sealed_file": "file", "sealed_with": "seal", "state": "dispatch.state.value"}


@lru_cache(maxsize=1)
def _columns() -> tuple[tuple[str, ...], Callable[[SealedRequest], Iterable[Any]]]:
    """The columns of a new row, and what reads their values off a sealed request."""
    names = tuple(field.name for field in DispatchRecord._meta.concrete_fields if field.name != "kept_response")
    return names, attrgetter(*(_SEALED.get(name, f"dispatch.{name}") for name in names))


def rows() -> QuerySet[DispatchRecord]:
    """Where the ledger is written: a replica may not know yet what was decided."""
    return DispatchRecord.objects.using(database.alias())


def dispatches(found: QuerySet[DispatchRecord]) -> list[Dispatch]:
    """Without their sealed requests and responses."""
    return [_dispatch(values) for values in found.values_list(*_COLUMNS, _KEEPS_RESPONSE)]


def first(*conditions: Q, **lookups: Any) -> Dispatch | None:
    """The one that these conditions are of, if there is one."""
    return next(iter(found_by(*conditions, **lookups)), None)


def found_by(*conditions: Q, **lookups: Any) -> list[Dispatch]:
    """In no order: for the look-ups that every request needs, which are prepared."""
    return [_dispatch(values) for values in _prepared(database.alias()).filter(*conditions, **lookups)]


@lru_cache(maxsize=8)
def _prepared(alias: str) -> QuerySet[DispatchRecord, Any]:
    """To name all columns takes as long as the rest of a look-up."""
    return DispatchRecord.objects.using(alias).order_by().values_list(*_COLUMNS, _KEEPS_RESPONSE)


def sealed_requests(found: QuerySet[DispatchRecord]) -> list[SealedRequest]:
    columns = (*_COLUMNS, _KEEPS_RESPONSE, "sealed", "sealed_file", "sealed_with")
    return [
        SealedRequest(_dispatch(values[:_WIDTH]), bytes(content), file, seal)
        for *values, content, file, seal in found.values_list(*columns)
    ]


def _dispatch(values: Iterable[Any]) -> Dispatch:
    columns = list(values)
    columns[_STATE] = State(columns[_STATE])
    return Dispatch(*columns)


def runs(run: Run) -> Q:
    """Whether a row runs, in this attempt: `Run.is_of` in SQL."""
    known = {
        "attempts": run.attempt,
        "worker": None if run.worker is None else run.worker[:WORKER_LENGTH],
        "started_at__gte": run.since,
        "due_at__lte": run.lapsed_at,
    }
    return Q(state=State.RUNNING, **{name: value for name, value in known.items() if value is not None})


def selected(selection: Selection) -> Q:
    conditions = {
        "pk__in": list(selection.ids),
        "queue": selection.queue,
        "state": selection.state,
        "route": selection.route,
        "error__icontains": selection.error,
        "accepted_at__lt": selection.accepted_before,
        "accepted_at__gte": selection.accepted_since,
    }
    return Q(**{name: value for name, value in conditions.items() if value})


def peek(dispatch_id: UUID) -> Dispatch | None:
    """The dispatch as it is; looking at it expires nothing."""
    return first(pk=dispatch_id)


def emit(events: Events, kind: Kind, dispatch_id: UUID, attempt: int | None = None) -> None:
    """Emit what happened to a dispatch, once that is committed."""
    transaction.on_commit(partial(events.emit, Event(kind, dispatch_id, peek, attempt)), using=database.alias())


def insert(request: SealedRequest, on_conflict: OnConflict | None = None) -> bool:
    names, read = _columns()
    return statements.insert_values(DispatchRecord, names, read(request), on_conflict)


def queued(dispatch_id: UUID) -> QuerySet[DispatchRecord]:
    return rows().filter(pk=dispatch_id, state=State.QUEUED)


def running(dispatch_id: UUID, run: Run) -> Dispatch | None:
    return first(runs(run), pk=dispatch_id)


def still(dispatch: Dispatch, run: Run) -> QuerySet[DispatchRecord]:
    """The row, if it is the same attempt and what is known of it still holds."""
    return rows().filter(runs(run), pk=dispatch.id, attempts=dispatch.attempts)
