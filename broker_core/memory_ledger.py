"""A ledger in the memory of one process, for unit tests: what a ledger does, without a database."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from broker_core import ledgers
from broker_core.dispatches import (
    CONTENT_TYPE_LENGTH,
    ERROR_LENGTH,
    NOT_REACHED,
    REVIVABLE,
    WORKER_LENGTH,
    Dispatch,
    Outcome,
    Run,
    SealedRequest,
    State,
    storable,
)
from broker_core.errors import DispatchConflictError
from broker_core.events import Event, Events, Kind
from broker_core.ledgers import DeadLetters, Group
from broker_core.policies import RETENTION

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from uuid import UUID

    from broker_core.ledgers import Selection
    from broker_core.policies import QueuePolicy

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that ended and was not the last."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime
    status: int | None
    error: str


@dataclass(slots=True)
class _Entry:
    """What the ledger has of one dispatch."""

    dispatch: Dispatch
    content: bytes
    file: str
    seal: str
    response: str | None = None
    ended_attempts: list[EndedAttempt] = field(default_factory=list)
    revived_at: list[datetime] = field(default_factory=list)

    @property
    def is_dead_letter(self) -> bool:
        return self.dispatch.state in REVIVABLE and bool(self.content or self.file)

    @property
    def sealed(self) -> SealedRequest:
        return SealedRequest(self.dispatch, self.content, self.file, self.seal)

    @property
    def is_handed_back(self) -> bool:
        last = self.ended_attempts[-1] if self.ended_attempts else None
        return last is not None and last.number == self.dispatch.attempts and last.error.startswith(NOT_REACHED)

    def last_wanted(self) -> datetime:
        return max([self.dispatch.accepted_at, *self.revived_at])


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


class MemoryLedger:
    """`queues` are the policies by name, `lease` is in seconds, `clock` says what time it is."""

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
        self._entries: dict[UUID, _Entry] = {}

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
        self._entries[dispatch.id] = _Entry(dispatch, request.content, request.file, request.seal)
        self._emit(Kind.ACCEPTED, dispatch)
        return dispatch

    @_locked
    def mark_published(self, dispatch: Dispatch, now: datetime) -> Dispatch | None:
        entry = self._queued(dispatch.id)
        if entry is None or _facts(entry.dispatch) != _facts(dispatch):
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
        if _is_free(entry.dispatch, policy, now):
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
        drop_at = ledgers.drop_response_at(outcome, response, policy, now)
        self._end(entry, outcome.state, now, outcome.error, due_at=drop_at)
        return True

    @_locked
    def retry(
        self, dispatch_id: UUID, run: Run, policy: QueuePolicy, outcome: Outcome, now: datetime | None = None
    ) -> datetime | None:
        entry, now = self._running(dispatch_id, run), now or self._clock()
        due = ledgers.next_attempt(entry.dispatch, policy, outcome, now) if entry is not None else None
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
        if now - first >= ledgers.DEPLOYMENT:
            return None
        due = ledgers.hand_back_until(entry.dispatch, now)
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
        if not ledgers.may_start_again(entry.dispatch, policy):
            self._end(entry, State.FAILED, now, ledgers.why_lost(reason, policy))
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
            entry.ended_attempts.append(_ended(before, before.finished_at or now, before.response_status, before.error))
        entry.dispatch = replace(
            before,
            state=State.QUEUED,
            attempts_before=before.attempts,
            due_at=now,
            published_at=None,
            expires_at=ledgers.wanted_until(before, now),
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

    def dead_letters(self, selection: Selection) -> Iterator[UUID]:
        return iter([entry.dispatch.id for entry in self._dead(selection)])

    def count_dead_letters(self, selection: Selection) -> int:
        return len(self._dead(selection))

    def dead_letters_by_error(self, selection: Selection) -> list[DeadLetters]:
        groups: dict[tuple[str, str, str], list[Dispatch]] = {}
        for entry in self._dead(selection):
            dispatch = entry.dispatch
            groups.setdefault((dispatch.queue, dispatch.state, dispatch.error), []).append(dispatch)
        letters = [
            DeadLetters(
                *key,
                len(group),
                min(each.accepted_at for each in group),
                max(each.finished_at or each.accepted_at for each in group),
            )
            for key, group in groups.items()
        ]
        return sorted(letters, key=lambda each: -each.count)

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

    @_locked
    def sealed(self, dispatch_id: UUID) -> SealedRequest | None:
        entry = self._entries.get(dispatch_id)
        return None if entry is None else entry.sealed

    @_locked
    def response(self, dispatch: Dispatch) -> str | None:
        entry = self._entries.get(dispatch.id)
        return None if entry is None else entry.response

    @_locked
    def last_wanted(self, dispatch: Dispatch) -> datetime:
        entry = self._entries.get(dispatch.id)
        return dispatch.accepted_at if entry is None else entry.last_wanted()

    @_locked
    def is_revived(self, dispatch_id: UUID) -> bool:
        entry = self._entries.get(dispatch_id)
        return entry is not None and bool(entry.revived_at)

    # What is due

    def queues(self, state: State) -> Iterator[str]:
        return iter(sorted({each.dispatch.queue for each in self._all() if each.dispatch.state is state}))

    def due_queues(self, now: datetime, most: int) -> set[str]:
        due = [each.dispatch for each in self._all() if _is_due(each.dispatch, now)]
        return {dispatch.queue for dispatch in sorted(due, key=_due_at)[:most]}

    def to_publish(self, queue: str, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        due = [each for each in self._waiting(queue, skip) if _is_due(each.dispatch, now)]
        return [each.sealed for each in sorted(due, key=lambda each: _due_at(each.dispatch))[:most]]

    def published(self, queue: str, before: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        gone = [
            (each.dispatch.published_at, each.sealed)
            for each in self._waiting(queue, skip)
            if each.dispatch.published_at is not None
            and each.dispatch.due_at is None
            and each.dispatch.published_at <= before
        ]
        return [sealed for _at, sealed in sorted(gone, key=lambda pair: pair[0])[:most]]

    def lapsed(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        running = [each.dispatch for each in self._all() if each.dispatch.lease_ends_at is not None]
        late = [dispatch for dispatch in running if _due_at(dispatch) <= now and dispatch.id not in skip]
        return sorted(late, key=_due_at)[:most]

    def unwanted(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        waiting = [each.dispatch for each in self._all() if each.dispatch.state is State.QUEUED]
        over = [dispatch for dispatch in waiting if dispatch.is_over(now) and dispatch.id not in skip]
        return sorted(over, key=lambda dispatch: dispatch.expires_at or now)[:most]

    def forgotten(self, queue: str, before: datetime, most: int) -> list[UUID]:
        waiting = [each for each in self._waiting(queue) if each.last_wanted() <= before]
        return [each.dispatch.id for each in sorted(waiting, key=_accepted_at)[:most]]

    def holds_up(self, queue: str, now: datetime | None = None) -> bool:
        late = (now or self._clock()) - self._late
        return len(self.to_publish(queue, late, ledgers.A_FEW + 1)) > ledgers.A_FEW

    # What operators and gauges ask

    def count(self) -> int:
        return len(self._entries)

    def select(self, selection: Selection, most: int) -> list[Dispatch]:
        chosen = [each for each in self._all() if _fits(each.dispatch, selection)]
        return [each.dispatch for each in sorted(chosen, key=_accepted_at, reverse=True)[:most]]

    def depth(self, queue: str, most: int | None = None) -> int:
        return len(self._waiting(queue)[:most])

    def oldest(self, queue: str) -> datetime | None:
        return min((_accepted_at(each) for each in self._waiting(queue) if not each.dispatch.attempts), default=None)

    def newest(self, queue: str) -> datetime | None:
        return max(map(_accepted_at, self._waiting(queue)), default=None)

    def arrivals(self, queue: str, since: datetime, until: datetime) -> int:
        accepted = [each.dispatch.accepted_at for each in self._all() if each.dispatch.queue == queue]
        return sum(since < at <= until for at in accepted)

    def latest_seal(self) -> str:
        return max(self._all(), key=_accepted_at).seal if self._entries else ""

    def late(self, before: datetime) -> list[Group]:
        waiting = [each for each in self._all() if each.dispatch.state is State.QUEUED and not each.is_handed_back]
        late = [each for each in waiting if _accepted_at(each) < before and (each.dispatch.due_at or before) <= before]
        return _groups((each.dispatch.queue, each.dispatch.accepted_at, "") for each in late)

    def handed_back(self) -> list[Group]:
        waiting = [each for each in self._all() if each.dispatch.state is State.QUEUED and each.is_handed_back]
        return _groups((each.dispatch.queue, _accepted_at(each), each.ended_attempts[-1].error) for each in waiting)

    def overdue(self, now: datetime) -> list[Group]:
        return _groups((each.worker, _due_at(each), "") for each in self.lapsed(now, len(self._entries)))

    def at_work(self, now: datetime) -> set[tuple[str, str]]:
        running = [each.dispatch for each in self._all() if each.dispatch.state is State.RUNNING]
        return {(dispatch.worker, dispatch.queue) for dispatch in running if _due_at(dispatch) > now}

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

    def _end(self, entry: _Entry, state: State, now: datetime, error: str = "", due_at: datetime | None = None) -> None:
        error = storable(error, ERROR_LENGTH)
        entry.dispatch = replace(entry.dispatch, state=state, finished_at=now, due_at=due_at, error=error)
        self._emit(Kind(state), entry.dispatch)

    def _requeue(self, entry: _Entry, outcome: Outcome, now: datetime, **changes: Any) -> None:
        entry.ended_attempts.append(_ended(entry.dispatch, now, outcome.status, outcome.error))
        entry.dispatch = replace(entry.dispatch, state=State.QUEUED, **changes)
        self._emit(Kind.RETRYING, entry.dispatch)

    def _queued(self, dispatch_id: UUID) -> _Entry | None:
        entry = self._entries.get(dispatch_id)
        return entry if entry is not None and entry.dispatch.state is State.QUEUED else None

    def _running(self, dispatch_id: UUID, run: Run) -> _Entry | None:
        entry = self._entries.get(dispatch_id)
        return entry if entry is not None and run.is_of(entry.dispatch) else None

    def _all(self) -> list[_Entry]:
        with self._lock:
            return [replace(entry) for entry in self._entries.values()]

    def _waiting(self, queue: str, skip: Collection[UUID] = ()) -> list[_Entry]:
        queued = [each for each in self._all() if each.dispatch.state is State.QUEUED]
        return [each for each in queued if each.dispatch.queue == queue and each.dispatch.id not in skip]

    def _dead(self, selection: Selection) -> list[_Entry]:
        return [each for each in self._all() if each.is_dead_letter and _fits(each.dispatch, selection)]


def _facts(dispatch: Dispatch) -> tuple[Any, ...]:
    """What a reaper has seen of a dispatch that it publishes."""
    return dispatch.attempts, dispatch.due_at, dispatch.published_at


def _is_free(dispatch: Dispatch, policy: QueuePolicy, now: datetime) -> bool:
    """Whether it can be claimed. The first claim does not ask whether it waits: the message may have come after all."""
    if dispatch.state is not State.QUEUED or dispatch.is_over(now):
        return False
    return not dispatch.attempts or (dispatch.due_at is None and dispatch.attempts_of_run < policy.starts)


def _ended(dispatch: Dispatch, now: datetime, status: int | None, error: str) -> EndedAttempt:
    started = dispatch.started_at or now
    return EndedAttempt(dispatch.attempts, dispatch.worker, started, now, status, storable(error, ERROR_LENGTH))


def _is_due(dispatch: Dispatch, now: datetime) -> bool:
    return dispatch.publish_at is not None and dispatch.publish_at <= now and dispatch.published_at is None


def _due_at(dispatch: Dispatch) -> datetime:
    return dispatch.due_at or dispatch.accepted_at


def _accepted_at(entry: _Entry) -> datetime:
    return entry.dispatch.accepted_at


def _fits(dispatch: Dispatch, selection: Selection) -> bool:
    return (
        (not selection.ids or dispatch.id in selection.ids)
        and selection.queue in {None, dispatch.queue}
        and selection.state in {None, dispatch.state}
        and selection.route in {None, dispatch.route}
        and (selection.error or "").lower() in dispatch.error.lower()
        and (selection.accepted_before is None or dispatch.accepted_at < selection.accepted_before)
        and (selection.accepted_since is None or dispatch.accepted_at >= selection.accepted_since)
    )


def _groups(found: Iterable[tuple[str, datetime, str]]) -> list[Group]:
    by_key: dict[str, list[tuple[datetime, str]]] = {}
    for key, at, error in found:
        by_key.setdefault(key, []).append((at, error))
    return [
        Group(key, len(each), min(at for at, _error in each), max(error for _at, error in each))
        for key, each in sorted(by_key.items())
    ]
