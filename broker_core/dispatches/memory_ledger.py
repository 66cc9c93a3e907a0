"""A ledger in the memory of one process, for unit tests: what a ledger does, without a database."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from broker_core.dispatches import transitions
from broker_core.dispatches.dispatch import (
    CONTENT_TYPE_LENGTH,
    ERROR_LENGTH,
    NOT_REACHED,
    WORKER_LENGTH,
    Dispatch,
    Outcome,
    Run,
    SealedRequest,
    State,
    storable,
)
from broker_core.dispatches.events import Event, Events, Kind
from broker_core.dispatches.memory_entries import EndedAttempt, Entry, ended, facts, is_free
from broker_core.dispatches.memory_lookups import MemoryLookups
from broker_core.errors import DispatchConflictError
from broker_core.policies import RETENTION

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from uuid import UUID

    from broker_core.dispatches.ledger import Ledger
    from broker_core.policies import QueuePolicy

P = ParamSpec("P")
R = TypeVar("R")


def _locked(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """One thread at a time; what a transition emits is told once the others may go on."""

    @wraps(method)
    def one_at_a_time(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            self._depth += 1
            try:
                result = method(self, *args, **kwargs)
            finally:
                self._depth -= 1
                told, self._untold = (self._untold, []) if not self._depth else ([], self._untold)
        for event in told:
            self.events.emit(event)
        return result

    return one_at_a_time


class MemoryLedger(MemoryLookups):
    """`queues` are the policies by name, `lease` is in seconds, `clock` says what time it is."""

    failures: tuple[type[Exception], ...] = ()
    has_one_lock = True

    def __init__(
        self,
        queues: Mapping[str, QueuePolicy],
        *,
        lease: float = 30.0,
        late: float = 2.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        events: Events | None = None,
    ) -> None:
        self.queues_configured = queues
        self.lease = timedelta(seconds=lease)
        self.events = events or Events()
        self._late = timedelta(seconds=late)
        self._clock = clock
        self._lock = threading.RLock()
        self._depth = 0
        self._untold: list[Event] = []
        self._entries: dict[UUID, Entry] = {}

    def when_committed(self, do: Callable[[], object]) -> None:
        do()

    def prove_writable(self) -> None:
        pass

    def ended_attempts(self, dispatch_id: UUID) -> list[EndedAttempt]:
        return list(self._entries[dispatch_id].ended_attempts)

    # Accepting and publishing

    @_locked
    def accept(self, request: SealedRequest) -> Dispatch:
        dispatch = request.dispatch
        key = dispatch.idempotency_key
        earlier = self.find_by_key(key) if key is not None else None
        if earlier is not None:
            return earlier
        if dispatch.id in self._entries:
            raise DispatchConflictError("the dispatch was accepted before")
        self._entries[dispatch.id] = Entry(dispatch, request.content, request.file, request.seal)
        self._emit(Kind.ACCEPTED, dispatch)
        return dispatch

    @_locked
    def mark_published(self, dispatch: Dispatch, now: datetime) -> Dispatch | None:
        entry = self._queued(dispatch.id)
        if entry is None or facts(entry.dispatch) != facts(dispatch):
            return None
        entry.dispatch = replace(entry.dispatch, due_at=None, published_at=now)
        return entry.dispatch

    @_locked
    def postpone(self, dispatch_id: UUID, until: datetime, publish_at: datetime | None = None) -> None:
        entry = self._queued(dispatch_id)
        if entry is not None and entry.dispatch.due_at == publish_at:
            entry.dispatch = replace(entry.dispatch, published_at=None, due_at=until)

    # Attempts

    @_locked
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
        entry = self._entries.get(dispatch_id)
        if entry is None:
            return 0
        if is_free(entry.dispatch, policy, now):
            entry.dispatch = replace(
                entry.dispatch,
                state=State.RUNNING,
                attempts=entry.dispatch.attempts + 1,
                worker=worker,
                started_at=asked,
                due_at=now + self.lease,
            )
            self._emit(Kind.STARTED, entry.dispatch)
        elif (entry.dispatch.state, entry.dispatch.worker, entry.dispatch.started_at) == (State.RUNNING, worker, asked):
            entry.dispatch = replace(entry.dispatch, due_at=now + self.lease)
        else:
            return 0
        return entry.dispatch.attempts

    @_locked
    def renew(self, claims: Iterable[tuple[UUID, int]], now: datetime | None = None) -> int:
        held = [entry for key, attempt in claims if (entry := self._running(key, Run(attempt))) is not None]
        for entry in held:
            entry.dispatch = replace(entry.dispatch, due_at=(now or self._clock()) + self.lease)
        return len(held)

    @_locked
    def conclude(
        self,
        dispatch_id: UUID,
        attempt: int,
        policy: QueuePolicy,
        outcome: Outcome,
        response: str | None = None,
        *,
        task: Any = None,  # noqa: ARG002 - for result stores, of which this is none
        now: datetime | None = None,
    ) -> bool:
        entry = self._running(dispatch_id, Run(attempt))
        if entry is None:
            return False
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
        self._end(entry, outcome.state, now, outcome.error, due_at=drop_at)
        return True

    @_locked
    def retry(
        self, dispatch_id: UUID, run: Run, policy: QueuePolicy, outcome: Outcome, now: datetime | None = None
    ) -> datetime | None:
        entry, now = self._running(dispatch_id, run), now or self._clock()
        due = transitions.next_attempt(entry.dispatch, policy, outcome, now) if entry is not None else None
        if entry is not None and due is not None:
            self._requeue(entry, outcome, now, due_at=due, published_at=None)
        return due

    @_locked
    def hand_back(self, dispatch_id: UUID, run: Run, reason: str, now: datetime | None = None) -> datetime | None:
        entry, now = self._running(dispatch_id, run), now or self._clock()
        if entry is None:
            return None
        wanted = entry.last_wanted()
        before = (each.ended_at for each in entry.ended_attempts if each.error.startswith(NOT_REACHED))
        first = min((ended_at for ended_at in before if ended_at >= wanted), default=now)
        if now - first >= transitions.DEPLOYMENT:
            return None
        due = transitions.hand_back_until(entry.dispatch, now)
        again = entry.dispatch.attempts_before + 1
        self._requeue(entry, Outcome(error=reason), now, due_at=due, published_at=None, attempts_before=again)
        return due

    @_locked
    def give_up(self, dispatch_id: UUID, run: Run, error: str, now: datetime | None = None) -> State | None:
        entry, now = self._running(dispatch_id, run), now or self._clock()
        if entry is None:
            return None
        outcome, policy = Outcome(error=error, retriable=True), self.queues_configured.get(entry.dispatch.queue)
        if policy is None or self.retry(dispatch_id, run, policy, outcome, now) is None:
            self._end(entry, State.FAILED, now, error)
        return entry.dispatch.state

    @_locked
    def lose(self, dispatch_id: UUID, run: Run, reason: str, now: datetime | None = None) -> State | None:
        entry, now = self._running(dispatch_id, run), now or self._clock()
        if entry is None:
            return None
        policy = self.queues_configured.get(entry.dispatch.queue)
        if not transitions.may_start_again(entry.dispatch, policy):
            self._end(entry, State.FAILED, now, transitions.why_lost(reason, policy))
        elif run.lapsed_at is not None:
            self._requeue(entry, Outcome(error=reason), now, due_at=now, published_at=None)
        else:
            self._requeue(entry, Outcome(error=reason), now, due_at=None)
        return entry.dispatch.state

    # Endings without an attempt

    @_locked
    def close(self, dispatch_id: UUID, policy: QueuePolicy, now: datetime | None = None) -> State | None:
        now = now or self._clock()
        if self.expire(dispatch_id, now):
            return State.EXPIRED
        entry = self._queued(dispatch_id)
        if entry is None or not entry.dispatch.attempts or entry.dispatch.attempts_of_run < policy.starts:
            return None
        self._end(entry, State.FAILED, now, "no attempt is left")
        return State.FAILED

    @_locked
    def abandon(self, dispatch_id: UUID, reason: str, now: datetime | None = None) -> bool:
        entry = self._queued(dispatch_id)
        if entry is None:
            return False
        self._end(entry, State.FAILED, now or self._clock(), reason)
        return True

    @_locked
    def cancel(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        if self.cancel_all([dispatch_id], now):
            return True
        entry = self._entries.get(dispatch_id)
        if entry is None or entry.dispatch.state is not State.CANCELLED:
            raise DispatchConflictError(f"the dispatch is {entry and entry.dispatch.state}")
        return False

    @_locked
    def cancel_all(self, ids: Collection[UUID], now: datetime | None = None) -> list[UUID]:
        waiting = [entry for key in ids if (entry := self._queued(key)) is not None]
        for entry in waiting:
            self._end(entry, State.CANCELLED, now or self._clock())
        return [entry.dispatch.id for entry in waiting]

    @_locked
    def stop(self, dispatch_id: UUID, run: Run, now: datetime | None = None) -> bool:
        entry = self._running(dispatch_id, run)
        if entry is None:
            return False
        self._end(entry, State.CANCELLED, now or self._clock())
        return True

    @_locked
    def expire(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        entry, now = self._queued(dispatch_id), now or self._clock()
        if entry is None or not entry.dispatch.is_over(now):
            return False
        self._end(entry, State.EXPIRED, now)
        return True

    # Dead letters

    @_locked
    def revive(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:  # noqa: ARG002 - tests ask nobody
        entry, now = self._entries.get(dispatch_id), now or self._clock()
        if entry is None or not entry.is_dead_letter:
            return False
        before = entry.dispatch
        if before.started_at is not None and before.attempts not in {each.number for each in entry.ended_attempts}:
            entry.ended_attempts.append(ended(before, before.finished_at or now, before.response_status, before.error))
        entry.dispatch = replace(
            before,
            state=State.QUEUED,
            attempts_before=before.attempts,
            due_at=now,
            published_at=None,
            expires_at=transitions.wanted_until(before, entry.last_wanted(), now),
            finished_at=None,
            response_status=None,
            response_type="",
            response_size=None,
            error="",
        )
        entry.response = None
        entry.revived_at.append(now)
        self._emit(Kind.REVIVED, entry.dispatch)
        return True

    @_locked
    def discard(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:  # noqa: ARG002 - as above
        entry = self._entries.get(dispatch_id)
        if entry is None or not entry.is_dead_letter:
            return False
        entry.content, entry.file = b"", ""
        return True

    # One dispatch

    @_locked
    def find(self, dispatch_id: UUID) -> Dispatch | None:
        self.expire(dispatch_id)
        entry = self._entries.get(dispatch_id)
        return None if entry is None else entry.dispatch

    @_locked
    def find_all(self, ids: Collection[UUID]) -> dict[UUID, Dispatch]:
        found = {key: self.find(key) for key in ids}
        return {key: dispatch for key, dispatch in found.items() if dispatch is not None}

    @_locked
    def find_by_key(self, idempotency_key: str) -> Dispatch | None:
        keys = [key for key, each in self._entries.items() if each.dispatch.idempotency_key == idempotency_key]
        return self.find(keys[0]) if keys else None

    # Housekeeping

    @_locked
    def keep_house(self, now: datetime | None = None, *, of_former_queues: bool = False) -> Iterator[int]:
        now, deleted = now or self._clock(), 0
        for key, entry in list(self._entries.items()):
            dispatch, policy = entry.dispatch, self.queues_configured.get(entry.dispatch.queue)
            if dispatch.drop_response_at is not None and dispatch.drop_response_at <= now:
                entry.dispatch, entry.response = replace(dispatch, due_at=None), None
            if dispatch.finished_at is None or (policy is None and not of_former_queues):
                continue
            retention = (policy.retention if policy else RETENTION)[dispatch.state]
            if dispatch.finished_at < now - timedelta(seconds=retention):
                del self._entries[key]
                deleted += 1
        return iter([deleted])

    # What they are made of

    def _emit(self, kind: Kind, dispatch: Dispatch, attempt: int | None = None) -> None:
        number = dispatch.attempts if attempt is None else attempt
        self._untold.append(Event(kind, dispatch.id, self._unexpired, number))

    def _unexpired(self, dispatch_id: UUID) -> Dispatch | None:
        entry = self._entries.get(dispatch_id)
        return None if entry is None else entry.dispatch

    def _end(self, entry: Entry, state: State, now: datetime, error: str = "", due_at: datetime | None = None) -> None:
        error = storable(error, ERROR_LENGTH)
        entry.dispatch = replace(entry.dispatch, state=state, finished_at=now, due_at=due_at, error=error)
        self._emit(Kind(state), entry.dispatch)

    def _requeue(self, entry: Entry, outcome: Outcome, now: datetime, **changes: Any) -> None:
        entry.ended_attempts.append(ended(entry.dispatch, now, outcome.status, outcome.error))
        entry.dispatch = replace(entry.dispatch, state=State.QUEUED, **changes)
        self._emit(Kind.RETRYING, entry.dispatch)

    def _queued(self, dispatch_id: UUID) -> Entry | None:
        entry = self._entries.get(dispatch_id)
        return entry if entry is not None and entry.dispatch.state is State.QUEUED else None

    def _running(self, dispatch_id: UUID, run: Run) -> Entry | None:
        entry = self._entries.get(dispatch_id)
        return entry if entry is not None and run.is_of(entry.dispatch) else None


if TYPE_CHECKING:
    _IS_A_LEDGER: Ledger = MemoryLedger({})
