"""How a ledger in memory begins and ends attempts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from broker_core.dispatches import transitions
from broker_core.dispatches.dispatch import (
    CONTENT_TYPE_LENGTH,
    ERROR_LENGTH,
    NOT_REACHED,
    WORKER_LENGTH,
    Outcome,
    Run,
    State,
    storable,
)
from broker_core.dispatches.events import Kind
from broker_core.dispatches.memory_entries import Entries, is_claimable, locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

    from broker_core.policies import QueuePolicy


class MemoryAttempts:
    """A part of `MemoryLedger`."""

    queues_configured: Mapping[str, QueuePolicy]
    lease: timedelta
    entries: Entries
    _clock: Callable[[], datetime]

    @locked
    def claim(
        self,
        dispatch_id: UUID,
        policy: QueuePolicy,
        worker: str,
        now: datetime | None = None,
        *,
        first_asked: datetime | None = None,
    ) -> int:
        now = now or self._clock()
        worker, asked = worker[:WORKER_LENGTH], first_asked or now
        entry = self.entries.get(dispatch_id)
        if entry is None:
            return 0
        if is_claimable(entry.dispatch, policy, now):
            entry.dispatch = replace(
                entry.dispatch,
                state=State.RUNNING,
                attempts=entry.dispatch.attempts + 1,
                worker=worker,
                started_at=asked,
                due_at=now + self.lease,
            )
        elif (entry.dispatch.state, entry.dispatch.worker, entry.dispatch.started_at) == (State.RUNNING, worker, asked):
            entry.dispatch = replace(entry.dispatch, due_at=now + self.lease)
        else:
            return 0
        self.entries.emit(Kind.STARTED, entry.dispatch)
        return entry.dispatch.attempts

    @locked
    def renew(self, claims: Iterable[tuple[UUID, int]], now: datetime | None = None) -> int:
        found = (self.entries.running(dispatch_id, Run(attempt)) for dispatch_id, attempt in set(claims))
        running = [entry for entry in found if entry is not None]
        for entry in running:
            entry.dispatch = replace(entry.dispatch, due_at=(now or self._clock()) + self.lease)
        return len(running)

    @locked
    def conclude(
        self,
        dispatch_id: UUID,
        attempt: int,
        policy: QueuePolicy,
        outcome: Outcome,
        response: str | None = None,
        *,
        task: Any = None,  # noqa: ARG002 - there is no result store
        first_asked: datetime | None = None,
        now: datetime | None = None,
    ) -> bool:
        entry = self.entries.running(dispatch_id, Run(attempt))
        if entry is None:
            return first_asked is not None and self._is_repeated(dispatch_id, attempt, outcome, first_asked)
        now = now or self._clock()
        entry.dispatch = replace(
            entry.dispatch,
            response_status=outcome.status,
            response_type=storable(outcome.content_type, CONTENT_TYPE_LENGTH),
            response_size=outcome.size if outcome.status is not None else None,
        )
        entry.response = response
        if not outcome.error:
            entry.content, entry.file = b"", ""
        drop_at = transitions.drop_response_at(outcome, response, policy, now)
        self.entries.end(entry, outcome.state, now, outcome.error, due_at=drop_at)
        return True

    def _is_repeated(self, dispatch_id: UUID, attempt: int, outcome: Outcome, first_asked: datetime) -> bool:
        entry = self.entries.get(dispatch_id)
        if entry is None or entry.dispatch.finished_at is None or entry.dispatch.finished_at < first_asked:
            return False
        end = entry.dispatch.attempts, entry.dispatch.state, entry.dispatch.error
        if end != (attempt, outcome.state, storable(outcome.error, ERROR_LENGTH)):
            return False
        self.entries.emit(Kind(outcome.state), entry.dispatch)
        return True

    @locked
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
        entry, now = self.entries.running(dispatch_id, run), now or self._clock()
        if entry is None and first_asked is not None:
            return self._requeued(dispatch_id, run, first_asked)
        due = transitions.next_attempt(entry.dispatch, policy, outcome, now) if entry is not None else None
        if entry is not None and due is not None:
            self.entries.requeue(entry, outcome, now, due_at=due, published_at=None)
        return due

    @locked
    def hand_back(
        self,
        dispatch_id: UUID,
        run: Run,
        reason: str,
        now: datetime | None = None,
        *,
        first_asked: datetime | None = None,
    ) -> datetime | None:
        entry, now = self.entries.running(dispatch_id, run), now or self._clock()
        if entry is None:
            return None if first_asked is None else self._requeued(dispatch_id, run, first_asked)
        last_wanted = entry.last_wanted()
        hand_backs = (each.ended_at for each in entry.ended_attempts if each.error.startswith(NOT_REACHED))
        first = min((ended_at for ended_at in hand_backs if ended_at >= last_wanted), default=now)
        if now - first >= transitions.DEPLOYMENT:
            return None
        due = transitions.hand_back_until(entry.dispatch, now)
        changes = {"due_at": due, "published_at": None, "attempts_before": entry.dispatch.attempts_before + 1}
        self.entries.requeue(entry, Outcome(error=reason), now, **changes)
        return due

    def _requeued(self, dispatch_id: UUID, run: Run, first_asked: datetime) -> datetime | None:
        entry = self.entries.queued(dispatch_id)
        ended = entry is not None and any(
            each.number == run.attempt and each.ended_at >= first_asked for each in entry.ended_attempts
        )
        if entry is None or not ended or entry.dispatch.attempts != run.attempt or entry.dispatch.publish_at is None:
            return None
        self.entries.emit(Kind.RETRYING, entry.dispatch)
        return entry.dispatch.publish_at

    @locked
    def give_up(self, dispatch_id: UUID, run: Run, error: str, now: datetime | None = None) -> State | None:
        entry, now = self.entries.running(dispatch_id, run), now or self._clock()
        if entry is None:
            return None
        outcome = Outcome(error=error or "it was given up", retriable=True)
        policy = self.queues_configured.get(entry.dispatch.queue)
        if policy is None or self.retry(dispatch_id, run, policy, outcome, now) is None:
            self.entries.end(entry, State.FAILED, now, outcome.error)
        return entry.dispatch.state

    @locked
    def lose(self, dispatch_id: UUID, run: Run, reason: str, now: datetime | None = None) -> State | None:
        entry, now = self.entries.running(dispatch_id, run), now or self._clock()
        if entry is None:
            return None
        policy = self.queues_configured.get(entry.dispatch.queue)
        if not transitions.may_start_again(entry.dispatch, policy):
            self.entries.end(entry, State.FAILED, now, transitions.why_lost(reason, policy))
        elif run.lapsed_at is not None:
            self.entries.requeue(entry, Outcome(error=reason), now, due_at=now, published_at=None)
        else:
            self.entries.requeue(entry, Outcome(error=reason), now, due_at=None)
        return entry.dispatch.state

    @locked
    def stop(self, dispatch_id: UUID, run: Run, now: datetime | None = None) -> bool:
        entry = self.entries.running(dispatch_id, run)
        if entry is None:
            return False
        self.entries.end(entry, State.CANCELLED, now or self._clock())
        return True
