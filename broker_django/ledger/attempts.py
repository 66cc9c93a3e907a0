"""How the ledger on the database begins and ends attempts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import F, Min, Q
from django.utils import timezone

from broker_core.dispatches import (
    CONTENT_TYPE_LENGTH,
    ERROR_LENGTH,
    NOT_REACHED,
    WORKER_LENGTH,
    Dispatch,
    Outcome,
    Run,
    State,
    storable,
    transitions,
)
from broker_core.dispatches.events import Kind
from broker_django.conf import conf
from broker_django.ledger import results, statements
from broker_django.ledger.due import last_wanted
from broker_django.ledger.rows import emit, first, matches_run, rows, running, still_running
from broker_django.models import AttemptRecord, DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from django.db.models import QuerySet

    from broker_core.dispatches.events import Events
    from broker_core.policies import QueuePolicy


class Attempts:
    """A part of `DatabaseLedger`."""

    events: Events

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=conf.LEASE)

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
        unstarted = {"id": dispatch_id, "state": State.QUEUED.value, "attempts": 0}
        if statements.update(DispatchRecord, {**claimed, "due_at": due_at, "attempts": 1}, unstarted, unexpired_at=now):
            emit(self.events, Kind.STARTED, dispatch_id, 1)
            return 1
        unexpired = rows().filter(Q(expires_at=None) | Q(expires_at__gt=now), pk=dispatch_id)
        claimable = unexpired.filter(state=State.QUEUED, due_at=None, attempts__lt=F("attempts_before") + policy.starts)
        own_claim = rows().filter(pk=dispatch_id, **claimed)
        started = claimable.update(attempts=F("attempts") + 1, due_at=due_at, **claimed)
        if not started and not own_claim.update(due_at=due_at):
            return 0
        attempt = own_claim.values_list("attempts", flat=True).first() or 0
        if attempt:  # also if the claim was found: the reply to the first call was lost, and its event with it
            emit(self.events, Kind.STARTED, dispatch_id, attempt)
        return attempt

    def renew(self, claims: Iterable[tuple[UUID, int]], now: datetime | None = None) -> int:
        claimed = Q(pk__in=[])
        for dispatch_id, attempt in claims:
            claimed |= Q(pk=dispatch_id, attempts=attempt)
        return rows().filter(claimed, state=State.RUNNING).update(due_at=(now or timezone.now()) + self.lease)

    def conclude(
        self,
        dispatch_id: UUID,
        attempt: int,
        policy: QueuePolicy,
        outcome: Outcome,
        response: str | None = None,
        *,
        task: Any = None,
        first_asked: datetime | None = None,
        now: datetime | None = None,
    ) -> bool:
        """Outcome and response are stored in one transaction if both are in one database. If the result store refuses
        the response, the ledger keeps it until housekeeping stores it. If this raises django.db.Error, nothing is
        stored.
        """
        now = now or timezone.now()
        drop_at = transitions.drop_response_at(outcome, response, policy, now)
        finish = partial(self._finish, dispatch_id, attempt, outcome, now, first_asked=first_asked)
        backend = results.backend_beside_ledger() if response is not None else None
        if response is None:
            return finish()
        result = results.result(attempt, outcome, response)
        if backend is not None:
            with transaction.atomic(using=database.alias()):
                finished = finish(drop_at)
                if finished:
                    results.store_in(backend, dispatch_id, result, task)
            return finished
        runs = rows().filter(pk=dispatch_id, state=State.RUNNING, attempts=attempt).exists()
        if not runs or results.store(dispatch_id, result, task):
            return finish(drop_at)
        return finish(due_at=now, kept_response=response.encode())

    def retry(
        self,
        dispatch_id: UUID,
        run: Run,
        policy: QueuePolicy,
        outcome: Outcome,
        now: datetime | None = None,
        *,
        first_asked: datetime | None = None,
    ) -> datetime | None:
        if not outcome.retriable:
            return None
        now, dispatch = now or timezone.now(), running(dispatch_id, run)
        if dispatch is None and first_asked is not None:
            return self._requeued(dispatch_id, run, first_asked)
        due = transitions.next_attempt(dispatch, policy, outcome, now) if dispatch is not None else None
        if dispatch is None or due is None:
            return None
        return due if self._requeue(dispatch, run, outcome, now, due_at=due, published_at=None) else None

    def hand_back(
        self,
        dispatch_id: UUID,
        run: Run,
        reason: str,
        now: datetime | None = None,
        *,
        first_asked: datetime | None = None,
    ) -> datetime | None:
        now = now or timezone.now()
        dispatch = running(dispatch_id, run)
        if dispatch is None and first_asked is not None:
            return self._requeued(dispatch_id, run, first_asked)
        if dispatch is None or now - self._handed_back_since(dispatch, now) >= transitions.DEPLOYMENT:
            return None
        due = transitions.hand_back_until(dispatch, now)
        changes = {"due_at": due, "published_at": None, "attempts_before": dispatch.attempts_before + 1}
        return due if self._requeue(dispatch, run, Outcome(error=reason), now, **changes) else None

    def give_up(self, dispatch_id: UUID, run: Run, error: str, now: datetime | None = None) -> State | None:
        dispatch = running(dispatch_id, run)
        if dispatch is None:
            return None
        outcome, policy = Outcome(error=error or "it was given up", retriable=True), conf.queues.get(dispatch.queue)
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
            due_at, published_at = (now, None) if run.lapsed_at else (None, dispatch.published_at)
            queued = self._requeue(dispatch, run, Outcome(error=reason), now, due_at=due_at, published_at=published_at)
            return State.QUEUED if queued else None
        error = transitions.why_lost(reason, policy)
        ended = self.end(still_running(dispatch, run), dispatch_id, State.FAILED, now, error, dispatch=dispatch)
        return State.FAILED if ended else None

    def stop(self, dispatch_id: UUID, run: Run, now: datetime | None = None) -> bool:
        return self.end(rows().filter(matches_run(run), pk=dispatch_id), dispatch_id, State.CANCELLED, now)

    def _finish(
        self,
        dispatch_id: UUID,
        attempt: int,
        outcome: Outcome,
        now: datetime,
        due_at: datetime | None = None,
        kept_response: bytes | None = None,
        *,
        first_asked: datetime | None = None,
    ) -> bool:
        """End the running attempt, or find that this was done since `first_asked`, and only the reply was lost."""
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
        unfinished = {"id": dispatch_id, "state": State.RUNNING.value, "attempts": attempt}
        finished = statements.update(DispatchRecord, ended, unfinished)
        if not finished and first_asked is not None:
            same = {"state": ended["state"], "error": ended["error"], "finished_at__gte": first_asked}
            finished = rows().filter(pk=dispatch_id, attempts=attempt, **same).exists()
        if finished:
            emit(self.events, Kind(outcome.state), dispatch_id, attempt)
        return finished

    def _requeued(self, dispatch_id: UUID, run: Run, first_asked: datetime) -> datetime | None:
        """Returns when the dispatch is due, if this attempt was ended since `first_asked`, and the reply was lost."""
        dispatch = first(pk=dispatch_id, state=State.QUEUED, attempts=run.attempt or 0)
        if dispatch is None or dispatch.publish_at is None:
            return None
        ended = AttemptRecord.objects.using(database.alias()).filter(dispatch=dispatch_id, ended_at__gte=first_asked)
        if not ended.filter(number=dispatch.attempts).exists():
            return None
        emit(self.events, Kind.RETRYING, dispatch_id, dispatch.attempts, dispatch)
        return dispatch.publish_at

    def _handed_back_since(self, dispatch: Dispatch, now: datetime) -> datetime:
        """Returns when a worker first handed it back since it was accepted or last revived."""
        ended = AttemptRecord.objects.using(database.alias()).filter(dispatch=dispatch.id)
        ended = ended.filter(error__startswith=NOT_REACHED, ended_at__gte=last_wanted(dispatch))
        return ended.aggregate(first=Min("ended_at"))["first"] or now

    def _requeue(self, dispatch: Dispatch, run: Run, outcome: Outcome, now: datetime, **changes: Any) -> bool:
        """End the running attempt and queue the dispatch again."""
        with transaction.atomic(using=database.alias()):
            if not still_running(dispatch, run).update(state=State.QUEUED, **changes):
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
            queued = replace(dispatch, state=State.QUEUED, **changes)
            emit(self.events, Kind.RETRYING, dispatch.id, dispatch.attempts, queued)
        return True

    def end(
        self,
        row: QuerySet[DispatchRecord],
        dispatch_id: UUID,
        state: State,
        now: datetime | None,
        error: str | None = None,
        *,
        dispatch: Dispatch | None = None,
    ) -> bool:
        """End the dispatch in this row without a response. Returns False if there is no such row.

        `dispatch` is what the row contained, if that is known.
        """
        ended: dict[str, Any] = {"state": state, "finished_at": now or timezone.now(), "due_at": None}
        if error is not None:
            ended["error"] = storable(error, ERROR_LENGTH)
        if not row.update(**ended):
            return False
        after = None if dispatch is None else replace(dispatch, **ended)
        emit(self.events, Kind(state), dispatch_id, None if after is None else after.attempts, after)
        return True
