"""The ledger on the database: every accepted request is a row before it is published.

A transition is one compare-and-set UPDATE: of two workers that were handed the same dispatch, one claims it.

`due_at` says when the reaper takes a row up. A queued one without it is on the message broker since `published_at`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import Error as DatabaseFailure
from django.db import transaction
from django.db.models import F, Min, Q
from django.db.models.constants import OnConflict
from django.utils import timezone

from broker_core.dispatches import (
    CONTENT_TYPE_LENGTH,
    ERROR_LENGTH,
    NOT_REACHED,
    WORKER_LENGTH,
    Dispatch,
    Outcome,
    Run,
    SealedRequest,
    State,
    sources,
    storable,
    transitions,
)
from broker_core.dispatches.events import Kind
from broker_core.errors import DispatchConflictError
from broker_django.conf import conf
from broker_django.ledger import results, retention, statements
from broker_django.ledger.dead_letters import DeadLetterBox
from broker_django.ledger.due import DueDispatches
from broker_django.ledger.figures import Figures
from broker_django.ledger.rows import (
    emit,
    first,
    found_by,
    insert,
    queued,
    rows,
    running,
    runs,
    sealed_requests,
    still,
)
from broker_django.models import AttemptRecord, DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from django.db.models import QuerySet

    from broker_core.dispatches.events import Events
    from broker_core.policies import QueuePolicy

AT_ONCE = 500
"""How many rows one query names."""


class DatabaseLedger(DueDispatches, DeadLetterBox, Figures):
    """The table of dispatches and those of their attempts and actions; responses are in Celery's result store."""

    failures: tuple[type[Exception], ...] = (DatabaseFailure,)

    def __init__(self, events: Events) -> None:
        self.events = events

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=conf.LEASE)

    @property
    def has_one_lock(self) -> bool:
        return database.vendor() == "sqlite"

    def when_committed(self, do: Callable[[], object]) -> None:
        transaction.on_commit(do, using=database.alias())

    def prove_writable(self) -> None:
        """Raises django.db.Error if the database takes no writes, once its patience is over."""
        rows().filter(pk=UUID(int=0)).update(error="")

    # Accepting and publishing

    def accept(self, request: SealedRequest) -> Dispatch:
        """Of several with the same key at once, in any number of processes, the database lets one in. A transaction
        around it goes on.
        """
        dispatch, key = request.dispatch, request.dispatch.idempotency_key
        if key is not None and not insert(request, OnConflict.IGNORE):
            earlier = self.find_by_key(key)
            if earlier is not None:
                return earlier
            insert(request)  # the earlier one was deleted meanwhile
        elif key is None:
            insert(request)
        self._emit(Kind.ACCEPTED, dispatch.id, 0)
        return dispatch

    def mark_published(self, dispatch: Dispatch, now: datetime) -> Dispatch | None:
        seen = {"state": State.QUEUED, "due_at": dispatch.due_at, "published_at": dispatch.published_at}
        unchanged = rows().filter(pk=dispatch.id, attempts=dispatch.attempts, **seen)
        published = unchanged.update(due_at=None, published_at=now)
        return replace(dispatch, due_at=None, published_at=now) if published else None

    def postpone(self, dispatch_id: UUID, until: datetime, publish_at: datetime | None = None) -> None:
        unclaimed = rows().filter(pk=dispatch_id, state=State.QUEUED, due_at=publish_at)
        unclaimed.update(published_at=None, due_at=until)

    # Attempts

    def claim(
        self,
        dispatch_id: UUID,
        policy: QueuePolicy,
        worker: str,
        now: datetime | None = None,
        *,
        first_asked: datetime | None = None,
    ) -> int:
        now = now or timezone.now()
        started_at, due_at = first_asked or now, now + self.lease
        claimed = {"state": State.RUNNING.value, "worker": worker[:WORKER_LENGTH], "started_at": started_at}
        fresh = {"id": dispatch_id, "state": State.QUEUED.value, "attempts": 0}
        if statements.update(DispatchRecord, {**claimed, "due_at": due_at, "attempts": 1}, fresh, wanted_at=now):
            self._emit(Kind.STARTED, dispatch_id, 1)
            return 1
        wanted = rows().filter(Q(expires_at=None) | Q(expires_at__gt=now), pk=dispatch_id)
        free = wanted.filter(state=State.QUEUED, due_at=None, attempts__lt=F("attempts_before") + policy.starts)
        ours = rows().filter(pk=dispatch_id, **claimed)
        begins = free.update(attempts=F("attempts") + 1, due_at=due_at, **claimed)
        if not begins and not ours.update(due_at=due_at):
            return 0
        attempt = ours.values_list("attempts", flat=True).first() or 0
        if begins:
            self._emit(Kind.STARTED, dispatch_id, attempt or None)
        return attempt

    def renew(self, claims: Iterable[tuple[UUID, int]], now: datetime | None = None) -> int:
        held = Q(pk__in=[])
        for dispatch_id, attempt in claims:
            held |= Q(pk=dispatch_id, attempts=attempt)
        return rows().filter(held, state=State.RUNNING).update(due_at=(now or timezone.now()) + self.lease)

    @database.results_too()
    def conclude(
        self,
        dispatch_id: UUID,
        attempt: int,
        policy: QueuePolicy,
        outcome: Outcome,
        response: str | None = None,
        *,
        task: Any = None,
        now: datetime | None = None,
    ) -> bool:
        """Outcome and response are in one transaction if both are in one database. If the result store does not take
        the response, the ledger keeps it, and the reaper hands it over later. Nothing is stored if this raises
        django.db.Error.
        """
        now = now or timezone.now()
        if response is None:
            return self._finish(dispatch_id, attempt, outcome, now)
        drop_at = transitions.drop_response_at(outcome, response, policy, now)
        result = results.result(attempt, outcome, response)
        backend = results.backend_beside_ledger()
        if backend is not None:
            with transaction.atomic(using=database.alias()):
                finished = self._finish(dispatch_id, attempt, outcome, now, drop_at)
                if finished:
                    results.store_in(backend, dispatch_id, result, task)
            return finished
        if not rows().filter(pk=dispatch_id, state=State.RUNNING, attempts=attempt).exists():
            return False
        if results.store(dispatch_id, result, task):
            return self._finish(dispatch_id, attempt, outcome, now, drop_at)
        return self._finish(dispatch_id, attempt, outcome, now, due_at=now, kept_response=response.encode())

    def _finish(
        self,
        dispatch_id: UUID,
        attempt: int,
        outcome: Outcome,
        now: datetime,
        due_at: datetime | None = None,
        kept_response: bytes | None = None,
    ) -> bool:
        ended = {
            "state": outcome.state.value,
            "finished_at": now,
            "due_at": due_at,
            "response_status": outcome.status,
            "response_type": storable(outcome.content_type, CONTENT_TYPE_LENGTH),
            "response_size": outcome.size if outcome.status is not None else None,
            "error": storable(outcome.error, ERROR_LENGTH),
            "kept_response": kept_response,
            **({} if outcome.error else {"sealed": b"", "sealed_file": ""}),
        }
        running = {"id": dispatch_id, "state": State.RUNNING.value, "attempts": attempt}
        finished = statements.update(DispatchRecord, ended, running)
        if finished:
            self._emit(Kind(outcome.state), dispatch_id, attempt)
        return finished

    def retry(
        self, dispatch_id: UUID, run: Run, policy: QueuePolicy, outcome: Outcome, now: datetime | None = None
    ) -> datetime | None:
        now = now or timezone.now()
        dispatch = running(dispatch_id, run) if outcome.retriable else None
        due = transitions.next_attempt(dispatch, policy, outcome, now) if dispatch is not None else None
        if dispatch is None or due is None:
            return None
        return due if self._requeue(dispatch, run, outcome, now, due_at=due, published_at=None) else None

    def hand_back(self, dispatch_id: UUID, run: Run, reason: str, now: datetime | None = None) -> datetime | None:
        now = now or timezone.now()
        dispatch = running(dispatch_id, run)
        if dispatch is None or now - self._handed_back_since(dispatch, now) >= transitions.DEPLOYMENT:
            return None
        due = transitions.hand_back_until(dispatch, now)
        changes = {"due_at": due, "published_at": None, "attempts_before": F("attempts_before") + 1}
        return due if self._requeue(dispatch, run, Outcome(error=reason), now, **changes) else None

    def _handed_back_since(self, dispatch: Dispatch, now: datetime) -> datetime:
        """When a worker handed it back for the first time since somebody wanted it."""
        ended = AttemptRecord.objects.using(database.alias()).filter(dispatch=dispatch.id)
        ended = ended.filter(error__startswith=NOT_REACHED, ended_at__gte=self.last_wanted(dispatch))
        return ended.aggregate(first=Min("ended_at"))["first"] or now

    def give_up(self, dispatch_id: UUID, run: Run, error: str, now: datetime | None = None) -> State | None:
        dispatch = running(dispatch_id, run)
        if dispatch is None:
            return None
        outcome, policy = Outcome(error=error, retriable=True), conf.queues.get(dispatch.queue)
        if policy and self.retry(dispatch_id, run, policy, outcome, now):
            return State.QUEUED
        finished = self._finish(dispatch_id, dispatch.attempts, outcome, now or timezone.now())
        return State.FAILED if finished else None

    def lose(self, dispatch_id: UUID, run: Run, reason: str, now: datetime | None = None) -> State | None:
        now = now or timezone.now()
        dispatch = running(dispatch_id, run)
        if dispatch is None:
            return None
        policy = conf.queues.get(dispatch.queue)
        if transitions.may_start_again(dispatch, policy):
            due_at, published_at = (now, None) if run.lapsed_at else (None, F("published_at"))
            queued = self._requeue(dispatch, run, Outcome(error=reason), now, due_at=due_at, published_at=published_at)
            return State.QUEUED if queued else None
        error = transitions.why_lost(reason, policy)
        return State.FAILED if self._end(still(dispatch, run), dispatch_id, State.FAILED, now, error) else None

    def _requeue(self, dispatch: Dispatch, run: Run, outcome: Outcome, now: datetime, **changes: Any) -> bool:
        """End the running attempt and queue the dispatch again."""
        with transaction.atomic(using=database.alias()):
            if not still(dispatch, run).update(state=State.QUEUED, **changes):
                return False
            AttemptRecord.objects.using(database.alias()).create(
                dispatch_id=dispatch.id,
                number=dispatch.attempts,
                worker=dispatch.worker,
                started_at=dispatch.started_at or now,
                ended_at=now,
                response_status=outcome.status,
                error=storable(outcome.error, ERROR_LENGTH),
            )
            self._emit(Kind.RETRYING, dispatch.id, dispatch.attempts)
        return True

    # Endings without an attempt

    def close(self, dispatch_id: UUID, policy: QueuePolicy, now: datetime | None = None) -> State | None:
        if self.expire(dispatch_id, now):
            return State.EXPIRED
        spent = rows().filter(pk=dispatch_id, state=State.QUEUED, attempts__gte=F("attempts_before") + policy.starts)
        ended = self._end(spent.filter(attempts__gt=0), dispatch_id, State.FAILED, now, "no attempt is left")
        return State.FAILED if ended else None

    def abandon(self, dispatch_id: UUID, reason: str, now: datetime | None = None) -> bool:
        return self._end(queued(dispatch_id), dispatch_id, State.FAILED, now, reason)

    def cancel(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        if self._end(queued(dispatch_id), dispatch_id, State.CANCELLED, now):
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
            self._emit(Kind.CANCELLED, dispatch_id)
        return waiting if changed else []

    def stop(self, dispatch_id: UUID, run: Run, now: datetime | None = None) -> bool:
        return self._end(rows().filter(runs(run), pk=dispatch_id), dispatch_id, State.CANCELLED, now)

    def expire(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        now = now or timezone.now()
        over = rows().filter(pk=dispatch_id, state__in=sources(State.EXPIRED), expires_at__lte=now)
        return self._end(over, dispatch_id, State.EXPIRED, now)

    def _end(
        self,
        row: QuerySet[DispatchRecord],
        dispatch_id: UUID,
        state: State,
        now: datetime | None,
        error: str | None = None,
    ) -> bool:
        """End the dispatch of this row, if there is one, without a response."""
        ended = {"state": state, "finished_at": now or timezone.now(), "due_at": None}
        if error is not None:
            ended["error"] = storable(error, ERROR_LENGTH)
        if not row.update(**ended):
            return False
        self._emit(Kind(state), dispatch_id)
        return True

    # One dispatch

    def find(self, dispatch_id: UUID) -> Dispatch | None:
        return self._looked_at(first(pk=dispatch_id))

    def find_all(self, ids: Collection[UUID]) -> dict[UUID, Dispatch]:
        chunks = [list(ids)[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]
        found = [dispatch for chunk in chunks for dispatch in found_by(pk__in=chunk)]
        return {dispatch.id: self._looked_at(dispatch) or dispatch for dispatch in found}

    def find_by_key(self, idempotency_key: str) -> Dispatch | None:
        return self._looked_at(first(idempotency_key=idempotency_key))

    def _looked_at(self, dispatch: Dispatch | None) -> Dispatch | None:
        if dispatch is None or dispatch.state is not State.QUEUED or not dispatch.is_over(timezone.now()):
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

    def keep_house(self, now: datetime | None = None, *, of_former_queues: bool = False) -> Iterator[int]:
        return retention.keep_house(now, of_former_queues=of_former_queues)

    def _emit(self, kind: Kind, dispatch_id: UUID, attempt: int | None = None) -> None:
        emit(self.events, kind, dispatch_id, attempt)
