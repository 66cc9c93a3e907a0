"""A ledger in the memory of one process, for unit tests without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from broker_core.dispatches import transitions
from broker_core.dispatches.dispatch import Dispatch, SealedRequest, State
from broker_core.dispatches.events import Events, Kind
from broker_core.dispatches.memory_attempts import MemoryAttempts
from broker_core.dispatches.memory_entries import EndedAttempt, Entries, Entry, ended_attempt, locked, schedule_of
from broker_core.dispatches.memory_lookups import MemoryLookups
from broker_core.errors import DispatchConflictError
from broker_core.policies import RETENTION

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from uuid import UUID

    from broker_core.dispatches.ledger import Ledger
    from broker_core.policies import QueuePolicy


class MemoryLedger(MemoryAttempts, MemoryLookups):
    """`queues` contains the policies by name. `lease` and `late` are in seconds. `clock` returns the current time."""

    failures: tuple[type[Exception], ...] = ()
    refusals: tuple[type[Exception], ...] = ()
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
        self.entries = Entries(self.events)

    def when_committed(self, do: Callable[[], object]) -> None:
        do()

    def in_transaction(self) -> bool:
        return False

    def ping(self) -> None:
        pass

    def prove_writable(self) -> None:
        pass

    def limit_waits(self) -> None:
        pass

    def is_locked_out(self, error: Exception) -> bool:  # noqa: ARG002 - nothing is locked for long
        return False

    def ended_attempts(self, dispatch_id: UUID) -> list[EndedAttempt]:
        return list(self.entries[dispatch_id].ended_attempts)

    # Accepting and publishing

    @locked
    def accept(self, request: SealedRequest) -> Dispatch:
        dispatch = request.dispatch
        key = dispatch.idempotency_key
        earlier = self.find_by_key(key) if key is not None else None
        if earlier is not None:
            return earlier
        if dispatch.id in self.entries:
            raise DispatchConflictError("a dispatch with this id was already accepted")
        self.entries[dispatch.id] = Entry(dispatch, request.content, request.file, request.seal)
        self.entries.emit(Kind.ACCEPTED, dispatch)
        return dispatch

    @locked
    def mark_published(self, dispatch: Dispatch, now: datetime) -> Dispatch | None:
        entry = self.entries.queued(dispatch.id)
        if entry is None or schedule_of(entry.dispatch) != schedule_of(dispatch):
            return None
        entry.dispatch = replace(entry.dispatch, due_at=None, published_at=now)
        return entry.dispatch

    @locked
    def postpone(self, dispatch_id: UUID, until: datetime, publish_at: datetime | None = None) -> None:
        entry = self.entries.queued(dispatch_id)
        if entry is not None and entry.dispatch.due_at == publish_at:
            entry.dispatch = replace(entry.dispatch, published_at=None, due_at=until)

    # Endings without an attempt

    @locked
    def close(self, dispatch_id: UUID, policy: QueuePolicy, now: datetime | None = None) -> State | None:
        now = now or self._clock()
        if self.expire(dispatch_id, now):
            return State.EXPIRED
        entry = self.entries.queued(dispatch_id)
        if entry is None or not entry.dispatch.attempts or entry.dispatch.attempts_of_run < policy.starts:
            return None
        self.entries.end(entry, State.FAILED, now, "no attempt is left")
        return State.FAILED

    @locked
    def abandon(self, dispatch_id: UUID, reason: str, now: datetime | None = None) -> bool:
        entry = self.entries.queued(dispatch_id)
        if entry is None:
            return False
        self.entries.end(entry, State.FAILED, now or self._clock(), reason)
        return True

    @locked
    def cancel(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        if self.cancel_all([dispatch_id], now):
            return True
        entry = self.entries.get(dispatch_id)
        if entry is None or entry.dispatch.state is not State.CANCELLED:
            raise DispatchConflictError(f"the dispatch is {entry and entry.dispatch.state}")
        return False

    @locked
    def cancel_all(self, ids: Collection[UUID], now: datetime | None = None) -> list[UUID]:
        waiting = [entry for key in dict.fromkeys(ids) if (entry := self.entries.queued(key)) is not None]
        for entry in waiting:
            self.entries.end(entry, State.CANCELLED, now or self._clock())
        return [entry.dispatch.id for entry in waiting]

    @locked
    def expire(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        entry, now = self.entries.queued(dispatch_id), now or self._clock()
        if entry is None or not entry.dispatch.has_expired(now):
            return False
        self.entries.end(entry, State.EXPIRED, now)
        return True

    # Dead letters

    @locked
    def revive(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:  # noqa: ARG002 - no actions are stored
        entry, now = self.entries.get(dispatch_id), now or self._clock()
        if entry is None or not entry.is_dead_letter:
            return False
        before = entry.dispatch
        if before.started_at is not None and before.attempts not in {each.number for each in entry.ended_attempts}:
            entry.ended_attempts.append(
                ended_attempt(before, before.finished_at or now, before.response_status, before.error)
            )
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
        self.entries.emit(Kind.REVIVED, entry.dispatch)
        return True

    @locked
    def discard(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:  # noqa: ARG002 - as above
        entry = self.entries.get(dispatch_id)
        if entry is None or not entry.is_dead_letter:
            return False
        entry.content, entry.file = b"", ""
        return True

    # One dispatch

    @locked
    def find(self, dispatch_id: UUID) -> Dispatch | None:
        self.expire(dispatch_id)
        entry = self.entries.get(dispatch_id)
        return None if entry is None else entry.dispatch

    @locked
    def find_all(self, ids: Collection[UUID]) -> dict[UUID, Dispatch]:
        found = {key: self.find(key) for key in ids}
        return {key: dispatch for key, dispatch in found.items() if dispatch is not None}

    @locked
    def find_by_key(self, idempotency_key: str) -> Dispatch | None:
        keys = [key for key, each in self.entries.items() if each.dispatch.idempotency_key == idempotency_key]
        return self.find(keys[0]) if keys else None

    # Housekeeping

    def sweep(self, now: datetime | None = None) -> int:  # noqa: ARG002 - it has no files
        return 0

    @locked
    def keep_house(self, now: datetime | None = None, *, of_former_queues: bool = False) -> Iterator[int]:
        now, deleted = now or self._clock(), 0
        for key, entry in list(self.entries.items()):
            dispatch, policy = entry.dispatch, self.queues_configured.get(entry.dispatch.queue)
            if dispatch.drop_response_at is not None and dispatch.drop_response_at <= now:
                entry.dispatch, entry.response = replace(dispatch, due_at=None), None
            if dispatch.finished_at is None or (policy is None and not of_former_queues):
                continue
            retention = (policy.retention if policy else RETENTION)[dispatch.state]
            if dispatch.finished_at < now - timedelta(seconds=retention):
                del self.entries[key]
                deleted += 1
        return iter([deleted])


if TYPE_CHECKING:
    _IS_A_LEDGER: Ledger = MemoryLedger({})
