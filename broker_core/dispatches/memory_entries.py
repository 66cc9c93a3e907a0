"""The entries of a ledger in memory, one for each dispatch."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from broker_core.dispatches.dispatch import (
    ERROR_LENGTH,
    NOT_REACHED,
    REVIVABLE,
    Dispatch,
    SealedRequest,
    State,
    storable,
)
from broker_core.dispatches.events import Event, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from broker_core.dispatches.dispatch import Outcome, Run
    from broker_core.dispatches.events import Events
    from broker_core.dispatches.ledger import Selection
    from broker_core.policies import QueuePolicy

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that ended and was followed by another."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime
    status: int | None
    error: str


@dataclass(slots=True)
class Entry:
    """One dispatch with its request, its response and its history."""

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


class Entries(dict[UUID, Entry]):
    """The entries by dispatch id, their lock, and the events of the current transaction."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.lock = threading.RLock()
        self._events = events
        self._depth = 0
        self._pending: list[Event] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Let one thread write at a time. The outermost block emits the events after it releases the lock."""
        with self.lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                pending, self._pending = ([], self._pending) if self._depth else (self._pending, [])
        for event in pending:
            self._events.emit(event)

    def queued(self, dispatch_id: UUID) -> Entry | None:
        entry = self.get(dispatch_id)
        return entry if entry is not None and entry.dispatch.state is State.QUEUED else None

    def running(self, dispatch_id: UUID, run: Run) -> Entry | None:
        entry = self.get(dispatch_id)
        return entry if entry is not None and run.is_of(entry.dispatch) else None

    def end(self, entry: Entry, state: State, now: datetime, error: str = "", due_at: datetime | None = None) -> None:
        error = storable(error, ERROR_LENGTH)
        entry.dispatch = replace(entry.dispatch, state=state, finished_at=now, due_at=due_at, error=error)
        self.emit(Kind(state), entry.dispatch)

    def requeue(self, entry: Entry, outcome: Outcome, now: datetime, **changes: Any) -> None:
        entry.ended_attempts.append(ended_attempt(entry.dispatch, now, outcome.status, outcome.error))
        entry.dispatch = replace(entry.dispatch, state=State.QUEUED, **changes)
        self.emit(Kind.RETRYING, entry.dispatch)

    def emit(self, kind: Kind, dispatch: Dispatch) -> None:
        self._pending.append(Event(kind, dispatch.id, self._dispatch, dispatch.attempts, dispatch))

    def _dispatch(self, dispatch_id: UUID) -> Dispatch | None:
        entry = self.get(dispatch_id)
        return None if entry is None else entry.dispatch


def locked(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Run this method of a ledger in a transaction of its entries."""

    @wraps(method)
    def in_transaction(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.entries.transaction():
            return method(self, *args, **kwargs)

    return in_transaction


def schedule_of(dispatch: Dispatch) -> tuple[Any, ...]:
    """Returns what must be the same as when the reaper read the dispatch."""
    return dispatch.attempts, dispatch.due_at, dispatch.published_at


def is_claimable(dispatch: Dispatch, policy: QueuePolicy, now: datetime) -> bool:
    """Whether it can be claimed. A first claim ignores `due_at`: a publish that seemed to fail may have succeeded."""
    if dispatch.state is not State.QUEUED or dispatch.has_expired(now):
        return False
    return not dispatch.attempts or (dispatch.due_at is None and dispatch.attempts_of_run < policy.starts)


def ended_attempt(dispatch: Dispatch, now: datetime, status: int | None, error: str) -> EndedAttempt:
    started = dispatch.started_at or now
    return EndedAttempt(dispatch.attempts, dispatch.worker, started, now, status, storable(error, ERROR_LENGTH))


def is_due(dispatch: Dispatch, now: datetime) -> bool:
    return dispatch.publish_at is not None and dispatch.publish_at <= now and dispatch.published_at is None


def due_at(dispatch: Dispatch) -> datetime:
    return dispatch.due_at or dispatch.accepted_at


def accepted_at(entry: Entry) -> datetime:
    return entry.dispatch.accepted_at


def matches(dispatch: Dispatch, selection: Selection) -> bool:
    return (
        (not selection.ids or dispatch.id in selection.ids)
        and (selection.queue or dispatch.queue) == dispatch.queue
        and (selection.state or dispatch.state) == dispatch.state
        and (selection.route or dispatch.route) == dispatch.route
        and (selection.error or "").lower() in dispatch.error.lower()
        and (selection.accepted_before is None or dispatch.accepted_at < selection.accepted_before)
        and (selection.accepted_since is None or dispatch.accepted_at >= selection.accepted_since)
    )
