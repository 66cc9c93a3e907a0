"""The ledger on the database: every accepted request is a row before it is published.

Each transition is one compare-and-set UPDATE: if two workers receive the same dispatch, only one claims it.

`due_at` is the time at which the reaper processes a row. A queued row without it was published at `published_at`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import DataError, IntegrityError, connections
from django.db import Error as DatabaseFailure
from django.db.models import F
from django.db.models.constants import OnConflict
from django.utils import timezone

from broker_core.dispatches import Dispatch, SealedRequest, State, sources
from broker_core.dispatches.events import Kind
from broker_core.errors import DispatchConflictError
from broker_django.ledger import locks, results, retention
from broker_django.ledger.attempts import Attempts
from broker_django.ledger.dead_letters import DeadLetterBox
from broker_django.ledger.due import DueDispatches
from broker_django.ledger.figures import Figures
from broker_django.ledger.rows import emit, first, insert, matching, queued, rows, sealed_requests, when_committed
from broker_django.models import database

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from datetime import datetime

    from broker_core.dispatches.events import Events
    from broker_core.policies import QueuePolicy

AT_ONCE = 500
"""The maximum number of ids in one query."""


class DatabaseLedger(Attempts, DueDispatches, DeadLetterBox, Figures):
    """Stores dispatches, attempts and actions in tables, and responses in Celery's result store."""

    failures: tuple[type[Exception], ...] = (DatabaseFailure,)
    refusals: tuple[type[Exception], ...] = (DataError, IntegrityError)

    def __init__(self, events: Events) -> None:
        self.events = events

    @property
    def has_one_lock(self) -> bool:
        return database.vendor() == "sqlite"

    def when_committed(self, do: Callable[[], object]) -> None:
        when_committed(do)

    def in_transaction(self) -> bool:
        return database.in_transaction()

    def ping(self) -> None:
        with connections[database.alias()].cursor() as cursor:
            cursor.execute("SELECT 1")

    def limit_waits(self) -> None:
        locks.limit_waits()

    def is_locked_out(self, error: Exception) -> bool:
        return locks.is_timeout(error)

    def prove_writable(self) -> None:
        """Raises django.db.Error if the database cannot be written, or not before its timeout."""
        rows().filter(pk=UUID(int=0)).update(error="")

    # Accepting and publishing

    def accept(self, request: SealedRequest) -> Dispatch:
        """If several processes accept the same key at once, one INSERT succeeds. An outer transaction stays usable."""
        dispatch, key = request.dispatch, request.dispatch.idempotency_key
        if key is not None and not insert(request, OnConflict.IGNORE):
            earlier = self.find_by_key(key)
            if earlier is not None:
                return earlier
            insert(request)  # the earlier one was deleted meanwhile
        elif key is None:
            insert(request)
        emit(self.events, Kind.ACCEPTED, dispatch.id, 0)
        return dispatch

    def mark_published(self, dispatch: Dispatch, now: datetime) -> Dispatch | None:
        seen = {"state": State.QUEUED, "due_at": dispatch.due_at, "published_at": dispatch.published_at}
        unchanged = rows().filter(pk=dispatch.id, attempts=dispatch.attempts, **seen)
        published = unchanged.update(due_at=None, published_at=now)
        return replace(dispatch, due_at=None, published_at=now) if published else None

    def postpone(self, dispatch_id: UUID, until: datetime, publish_at: datetime | None = None) -> None:
        unclaimed = rows().filter(pk=dispatch_id, state=State.QUEUED, due_at=publish_at)
        unclaimed.update(published_at=None, due_at=until)

    # Endings without an attempt

    def close(self, dispatch_id: UUID, policy: QueuePolicy, now: datetime | None = None) -> State | None:
        if self.expire(dispatch_id, now):
            return State.EXPIRED
        spent = rows().filter(pk=dispatch_id, state=State.QUEUED, attempts__gte=F("attempts_before") + policy.starts)
        ended = self.end(spent.filter(attempts__gt=0), dispatch_id, State.FAILED, now, "no attempt is left")
        return State.FAILED if ended else None

    def abandon(self, dispatch_id: UUID, reason: str, now: datetime | None = None) -> bool:
        return self.end(queued(dispatch_id), dispatch_id, State.FAILED, now, reason)

    def cancel(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        if self.end(queued(dispatch_id), dispatch_id, State.CANCELLED, now):
            return True
        state = rows().values_list("state", flat=True).filter(pk=dispatch_id).first()
        if state != State.CANCELLED:
            raise DispatchConflictError(f"the dispatch is {state}")
        return False

    def cancel_all(self, ids: Collection[UUID], now: datetime | None = None) -> list[UUID]:
        cancelled = {"state": State.CANCELLED, "finished_at": now or timezone.now()}
        waiting = list(rows().filter(pk__in=ids, state=State.QUEUED).values_list("pk", flat=True))
        changed = rows().filter(pk__in=waiting, state=State.QUEUED).update(**cancelled, due_at=None) if waiting else 0
        if 0 < changed < len(waiting):
            waiting = list(rows().filter(pk__in=waiting, **cancelled).values_list("pk", flat=True))
        for dispatch_id in waiting if changed else ():
            emit(self.events, Kind.CANCELLED, dispatch_id)
        return waiting if changed else []

    def expire(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        now = now or timezone.now()
        overdue = rows().filter(pk=dispatch_id, state__in=sources(State.EXPIRED), expires_at__lte=now)
        return self.end(overdue, dispatch_id, State.EXPIRED, now)

    # One dispatch

    def find(self, dispatch_id: UUID) -> Dispatch | None:
        return self._expire_if_due(first(pk=dispatch_id))

    def find_all(self, ids: Collection[UUID]) -> dict[UUID, Dispatch]:
        chunks = [list(ids)[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]
        found = [dispatch for chunk in chunks for dispatch in matching(pk__in=chunk)]
        return {dispatch.id: self._expire_if_due(dispatch) or dispatch for dispatch in found}

    def find_by_key(self, idempotency_key: str) -> Dispatch | None:
        return self._expire_if_due(first(idempotency_key=idempotency_key))

    def _expire_if_due(self, dispatch: Dispatch | None) -> Dispatch | None:
        if dispatch is None or dispatch.state is not State.QUEUED or not dispatch.has_expired(timezone.now()):
            return dispatch
        self.expire(dispatch.id)
        return first(pk=dispatch.id)

    def sealed(self, dispatch_id: UUID) -> SealedRequest | None:
        return next(iter(sealed_requests(rows().filter(pk=dispatch_id))), None)

    def response(self, dispatch: Dispatch) -> str | None:
        if dispatch.keeps_response:
            kept = rows().filter(pk=dispatch.id).values_list("kept_response", flat=True).first()
            if kept:
                return bytes(kept).decode("ascii", "replace")
        return results.sealed_response(dispatch.id)

    # Housekeeping

    def sweep(self, now: datetime | None = None) -> int:
        return retention.sweep(now)

    def keep_house(self, now: datetime | None = None, *, of_former_queues: bool = False) -> Iterator[int]:
        return retention.keep_house(now, of_former_queues=of_former_queues)
