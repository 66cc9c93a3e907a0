"""The rows of the ledger, read as dispatches."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
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
    """Returns the columns of a new row, and a function that reads their values from a sealed request."""
    names = tuple(field.name for field in DispatchRecord._meta.concrete_fields if field.name != "kept_response")
    return names, attrgetter(*(_SEALED.get(name, f"dispatch.{name}") for name in names))


def rows() -> QuerySet[DispatchRecord]:
    """All rows, in the database for writes: a replica may lag behind."""
    return DispatchRecord.objects.using(database.alias())


def dispatches(found: QuerySet[DispatchRecord]) -> list[Dispatch]:
    """Does not read the sealed requests and responses."""
    return [_dispatch(values) for values in found.values_list(*_COLUMNS, _KEEPS_RESPONSE)]


def first(*conditions: Q, **lookups: Any) -> Dispatch | None:
    """Returns a dispatch that matches all conditions, if there is one."""
    return next(iter(matching(*conditions, **lookups)), None)


def matching(*conditions: Q, **lookups: Any) -> list[Dispatch]:
    """Returns dispatches in no order. Every request needs such lookups, so their queryset is prepared."""
    return [_dispatch(values) for values in _prepared(database.alias()).filter(*conditions, **lookups)]


@lru_cache(maxsize=8)
def _prepared(alias: str) -> QuerySet[DispatchRecord, Any]:
    """Cached, because naming all columns takes as long as the rest of a lookup."""
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


def matches_run(run: Run) -> Q:
    """The same as `Run.is_of`, in SQL."""
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
    """Returns the dispatch, and does not expire it."""
    return first(pk=dispatch_id)


def when_committed(do: Callable[[], object]) -> None:
    """Call `do` after this thread's writes are committed; never if they are rolled back.

    A project that manages transactions by hand (`set_autocommit(False)`) has committed when it turns autocommit on
    again. There, Django refuses hooks outside of `atomic`. Raises TransactionManagementError if the settings turn
    autocommit off for good, since no hook would ever run.
    """
    alias = database.alias()
    connection = connections[alias]
    by_hand = not connection.get_autocommit() and not connection.in_atomic_block
    if not by_hand or not connection.settings_dict["AUTOCOMMIT"]:
        transaction.on_commit(do, using=alias)
        return
    with transaction.atomic(using=alias, savepoint=False):
        transaction.on_commit(do, using=alias)


def emit(
    events: Events, kind: Kind, dispatch_id: UUID, attempt: int | None = None, dispatch: Dispatch | None = None
) -> None:
    """Emit the event after the transaction is committed."""
    when_committed(partial(events.emit, Event(kind, dispatch_id, peek, attempt, dispatch)))


def insert(request: SealedRequest, on_conflict: OnConflict | None = None) -> bool:
    names, read = _columns()
    return statements.insert_values(DispatchRecord, names, read(request), on_conflict)


def queued(dispatch_id: UUID) -> QuerySet[DispatchRecord]:
    return rows().filter(pk=dispatch_id, state=State.QUEUED)


def running(dispatch_id: UUID, run: Run) -> Dispatch | None:
    return first(matches_run(run), pk=dispatch_id)


def still_running(dispatch: Dispatch, run: Run) -> QuerySet[DispatchRecord]:
    """The row of the dispatch, if the same attempt is still running and matches `run`."""
    return rows().filter(matches_run(run), pk=dispatch.id, attempts=dispatch.attempts)
