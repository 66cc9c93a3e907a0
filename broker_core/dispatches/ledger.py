"""The ledger: the interface that every store of dispatches implements.

Each transition is a compare-and-set: if two workers receive the same dispatch, only one claims it. The ledger emits one
event per transition, after it is committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from datetime import datetime, timedelta
    from uuid import UUID

    from broker_core.dispatches.dispatch import Dispatch, Outcome, Run, SealedRequest, State
    from broker_core.dispatches.events import Events
    from broker_core.policies import QueuePolicy


@dataclass(frozen=True, slots=True)
class Selection:
    """Filters for dispatches, which must match all of them. `error` matches a part of the error."""

    ids: Collection[UUID] = ()
    queue: str | None = None
    state: str | None = None
    route: str | None = None
    error: str | None = None
    accepted_before: datetime | None = None
    accepted_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters of one queue, state and error: when the first was accepted, and when the last one finished."""

    queue: str
    state: str
    error: str
    count: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Group:
    """Dispatches of one queue or one worker, which is the key. `oldest` is the time of the oldest one."""

    key: str
    count: int
    oldest: datetime
    error: str = ""


class Ledger(Protocol):
    """Every accepted request, written before it is published.

    `now` defaults to the current time. Every method raises one of `failures` if the store does not answer. A transition
    returns False, 0 or None if another process was faster.

    A worker that lost the connection repeats its call with the same `first_asked`: this finds what the first call did,
    and emits its event, which was lost with the reply.
    """

    events: Events

    failures: tuple[type[Exception], ...]
    """The errors of the store, such as django.db.Error."""

    refusals: tuple[type[Exception], ...]
    """Those of `failures` that a repetition does not change, such as django.db.DataError."""

    @property
    def lease(self) -> timedelta:
        """How long a claim is valid unless it is renewed."""

    @property
    def has_one_lock(self) -> bool:
        """Whether all writers share one lock, as in SQLite."""

    def when_committed(self, do: Callable[[], object]) -> None:
        """Call `do` after this thread's writes are committed; never if they are rolled back."""

    def in_transaction(self) -> bool:
        """Whether this thread has an open transaction, so that other connections do not see its writes yet."""

    def ping(self) -> None:
        """Raises one of `failures` if the store does not answer."""

    def prove_writable(self) -> None:
        """Raises one of `failures` if the ledger cannot be written. Changes nothing."""

    def limit_waits(self) -> None:
        """Make this thread wait for a dispatch that another one has locked for at most a small part of a lease."""

    def is_locked_out(self, error: Exception) -> bool:
        """Whether a call failed with this error because another process has locked the dispatch."""

    # Accepting and publishing

    def accept(self, request: SealedRequest) -> Dispatch:
        """Write a dispatch with its sealed request.

        Returns the dispatch with this `idempotency_key`: the new one, or an earlier one.
        """

    def mark_published(self, dispatch: Dispatch, now: datetime) -> Dispatch | None:
        """Claim a queued dispatch for publishing.

        Returns the changed dispatch, or None if another process changed it first.
        """

    def postpone(self, dispatch_id: UUID, until: datetime, publish_at: datetime | None = None) -> None:
        """Let the reaper publish a queued dispatch at `until`, if its `publish_at` is still the same."""

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
        """Claim a queued dispatch to run it. Returns the attempt number, or 0 if the dispatch cannot be claimed.

        It cannot be claimed after it expired, or while it waits in the ledger to be published. A claim that is found by
        its `first_asked` is renewed.
        """

    def renew(self, claims: Iterable[tuple[UUID, int]], now: datetime | None = None) -> int:
        """Renew the leases of these claims (id, attempt). Returns how many of them still run."""

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
        """Record the final outcome and the sealed response. Returns False if the attempt no longer runs.

        `task` is the attempt's Celery request, for result stores that store its details. A success drops the request.
        """

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
        """Queue the dispatch again after a failed attempt. Returns when it will be published.

        Returns None if this was the last attempt, if the dispatch expires first, or if the attempt no longer runs.
        """

    def hand_back(
        self,
        dispatch_id: UUID,
        run: Run,
        reason: str,
        now: datetime | None = None,
        *,
        first_asked: datetime | None = None,
    ) -> datetime | None:
        """Queue a dispatch again that its worker cannot run, without counting the attempt. Returns when it is due.

        Returns None if it was first handed back longer than `DEPLOYMENT` ago, or if the attempt no longer runs.
        """

    def give_up(self, dispatch_id: UUID, run: Run, error: str, now: datetime | None = None) -> State | None:
        """End an attempt that was stopped without a response. Returns the next state: QUEUED or FAILED."""

    def lose(self, dispatch_id: UUID, run: Run, reason: str, now: datetime | None = None) -> State | None:
        """End an attempt whose worker was lost. Returns the next state.

        The dispatch is queued again, or fails if its queue promises `at_most_once` or no attempt is left. If the lease
        ended, the reaper publishes the dispatch; otherwise the message broker delivers it again.
        """

    # Endings without an attempt

    def close(self, dispatch_id: UUID, policy: QueuePolicy, now: datetime | None = None) -> State | None:
        """End a queued dispatch that has expired or has no attempt left. Returns its new state."""

    def abandon(self, dispatch_id: UUID, reason: str, now: datetime | None = None) -> bool:
        """Fail a queued dispatch that no worker can run. Returns False if it is no longer queued."""

    def cancel(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        """Cancel a queued dispatch. Returns False if it was already cancelled.

        Raises DispatchConflictError in any other state.
        """

    def cancel_all(self, ids: Collection[UUID], now: datetime | None = None) -> list[UUID]:
        """Cancel those dispatches of `ids` that are queued. Returns their ids."""

    def stop(self, dispatch_id: UUID, run: Run, now: datetime | None = None) -> bool:
        """Cancel an attempt that its worker is about to stop. Returns False if it no longer runs."""

    def expire(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        """Expire a queued dispatch if `expires_at` has passed. Returns whether it did."""

    # Dead letters: failed and expired dispatches that can run again

    def revive(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:
        """Queue a dead letter again, with the same id and all attempts. Returns False if it is not a dead letter."""

    def discard(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:
        """Drop the request of a dead letter, so that it cannot run again. Returns False if it is not a dead letter."""

    def dead_letters(self, selection: Selection) -> Iterator[UUID]:
        """Yields the selected ids. The caller may revive or discard each one meanwhile."""

    def count_dead_letters(self, selection: Selection) -> int:
        """Returns how many dead letters are selected."""

    def dead_letters_by_error(self, selection: Selection) -> list[DeadLetters]:
        """Returns the groups of the selected dead letters, the largest first."""

    # One dispatch

    def find(self, dispatch_id: UUID) -> Dispatch | None:
        """Returns the dispatch. If `expires_at` has passed, the dispatch expires first."""

    def find_all(self, ids: Collection[UUID]) -> dict[UUID, Dispatch]:
        """Like `find`, for many ids."""

    def find_by_key(self, idempotency_key: str) -> Dispatch | None:
        """Like `find`, by the digest of the idempotency key."""

    def sealed(self, dispatch_id: UUID) -> SealedRequest | None:
        """Returns the dispatch with its sealed request."""

    def response(self, dispatch: Dispatch) -> str | None:
        """Returns the sealed response. None if it was dropped, or if the broker did not write it.

        Raises UnavailableError if the result store does not answer.
        """

    def last_wanted(self, dispatch: Dispatch) -> datetime:
        """Returns when the dispatch was accepted or last revived."""

    def is_revived(self, dispatch_id: UUID) -> bool:
        """Whether an operator revived the dispatch."""

    # What is due: at most `most` dispatches, the earliest first, without those in `skip`

    def queues(self, state: State) -> Iterator[str]:
        """Yields each queue that has a dispatch in this state."""

    def due_queues(self, now: datetime, most: int) -> set[str]:
        """Returns the queues of the first `most` dispatches to publish."""

    def to_publish(self, queue: str, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        """Queued dispatches whose `publish_at` has passed."""

    def published(self, queue: str, before: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        """Queued dispatches that were published at `before` or earlier."""

    def lapsed(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        """Running dispatches whose lease has ended."""

    def unwanted(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        """Queued dispatches whose `expires_at` has passed."""

    def forgotten(self, queue: str, before: datetime, most: int) -> list[UUID]:
        """Queued dispatches that were accepted or last revived at `before` or earlier."""

    def holds_up(self, queue: str, now: datetime | None = None) -> bool:
        """Whether the reapers are late to publish more than `A_FEW` dispatches of this queue."""

    # Figures for operators and metrics

    def count(self) -> int:
        """Returns the number of dispatches."""

    def select(self, selection: Selection, most: int) -> list[Dispatch]:
        """Returns the selected dispatches, the newest first."""

    def depth(self, queue: str, most: int | None = None) -> int:
        """Returns how many dispatches are queued, counted up to `most`."""

    def oldest(self, queue: str) -> datetime | None:
        """Returns when the oldest queued dispatch without an attempt was accepted."""

    def newest(self, queue: str) -> datetime | None:
        """Returns when the newest queued dispatch was accepted."""

    def arrivals(self, queue: str, since: datetime, until: datetime) -> int:
        """Returns how many dispatches were accepted after `since` and not after `until`."""

    def latest_seal(self) -> str:
        """Returns the seal of the latest accepted request, in any state; empty if nothing was accepted."""

    def late(self, before: datetime) -> list[Group]:
        """By queue: queued dispatches that were accepted and due before `before` and were not handed back."""

    def handed_back(self) -> list[Group]:
        """By queue: queued dispatches that workers handed back, and one of their errors."""

    def overdue(self, now: datetime) -> list[Group]:
        """By worker: running dispatches whose lease has ended, and when the first lease ended."""

    def at_work(self, now: datetime) -> set[tuple[str, str]]:
        """Returns the worker and queue of each dispatch that runs under a lease."""

    # Housekeeping

    def sweep(self, now: datetime | None = None) -> int:
        """Delete the files of large requests that belong to no dispatch. Returns how many. Raises StorageError."""

    def keep_house(self, now: datetime | None = None, *, of_former_queues: bool = False) -> Iterator[int]:
        """Drop old responses and delete old dispatches, as the policies of their queues say.

        Yields the number of deleted dispatches after each small step. `of_former_queues` includes queues that are no
        longer configured.
        """
