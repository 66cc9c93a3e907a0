"""The ledger: what a store of dispatches has to do, whatever it is made of.

A ledger decides each transition by compare-and-set: of two workers that are handed the same dispatch, one claims it.
It emits one event for each transition, when that is committed.
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
    """Which dispatches: those that fit all that is given. `error` is a part of their error."""

    ids: Collection[UUID] = ()
    queue: str | None = None
    state: str | None = None
    route: str | None = None
    error: str | None = None
    accepted_before: datetime | None = None
    accepted_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters of one queue, state and error: how many, when the first was accepted and the last was done."""

    queue: str
    state: str
    error: str
    count: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Group:
    """Dispatches of one queue, or one worker, which is the key: how many, and since when the oldest of them."""

    key: str
    count: int
    oldest: datetime
    error: str = ""


class Ledger(Protocol):
    """Every accepted request, written before it is published.

    `now` is the current time if it is not given. Every method raises one of `failures` if its store does not answer. A
    transition returns what happened: False, 0 or None if somebody else was faster.
    """

    events: Events

    failures: tuple[type[Exception], ...]
    """The errors of its store, as django.db.Error is one."""

    @property
    def lease(self) -> timedelta:
        """How long a claim holds unless it is renewed."""

    @property
    def has_one_lock(self) -> bool:
        """Whether all writers share one lock, as those of SQLite do."""

    def when_committed(self, do: Callable[[], object]) -> None:
        """Call it once what this thread has written is committed; never if that is rolled back."""

    def prove_writable(self) -> None:
        """Write nothing. Raises one of `failures` if the ledger takes no writes."""

    # Accepting and publishing

    def accept(self, request: SealedRequest) -> Dispatch:
        """Write a dispatch with its sealed request.

        Returns the dispatch that the ledger has for its `idempotency_key` then: this, or an earlier one.
        """

    def mark_published(self, dispatch: Dispatch, now: datetime) -> Dispatch | None:
        """Claim a queued dispatch for publishing: of several reapers that saw it as it is, one may publish it.

        Returns the dispatch as it is then, None if another reaper changed it first.
        """

    def postpone(self, dispatch_id: UUID, until: datetime, publish_at: datetime | None = None) -> None:
        """Have the reaper publish a queued dispatch `until` then, if it is to be published when it was seen to be."""

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
        """Claim a queued dispatch to run it. Returns the attempt number, or 0 if it cannot be claimed.

        It cannot if nobody wants it any more, or while it waits in the ledger to be published. Asking again with the
        same `first_asked` finds the claim that was made, and renews it: its answer may have been lost on the way.
        """

    def renew(self, claims: Iterable[tuple[UUID, int]], now: datetime | None = None) -> int:
        """Hold these claims, by id and attempt, for another lease. Returns how many there were to hold."""

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
        """Record how this attempt ended, for good, with its sealed response. Returns False if it does not run any more.

        `task` is the Celery request of the attempt, for result stores that keep facts of it. A success drops the
        request.
        """

    def retry(
        self, dispatch_id: UUID, run: Run, policy: QueuePolicy, outcome: Outcome, now: datetime | None = None
    ) -> datetime | None:
        """Queue the dispatch of a failed attempt again, to be published later. Returns when.

        Returns None if this was the last attempt, nobody would want the answer by then, or it does not run any more.
        """

    def hand_back(self, dispatch_id: UUID, run: Run, reason: str, now: datetime | None = None) -> datetime | None:
        """Queue the dispatch again, as if this attempt had not been: its worker cannot run it. Returns when it is due.

        Returns None if it was handed back for so long that a worker that could run it would have come by now, or if the
        attempt does not run any more.
        """

    def give_up(self, dispatch_id: UUID, run: Run, error: str, now: datetime | None = None) -> State | None:
        """End an attempt that was stopped without an answer. Returns the state that follows: QUEUED or FAILED."""

    def lose(self, dispatch_id: UUID, run: Run, reason: str, now: datetime | None = None) -> State | None:
        """End an attempt whose worker was lost, as `reason` says. Returns the state that follows.

        The dispatch is queued again; or it fails, if its queue promises `at_most_once` or it has no attempt left. If
        its lease ran out, the reaper publishes it; else the message broker itself delivers it again.
        """

    # Endings without an attempt

    def close(self, dispatch_id: UUID, policy: QueuePolicy, now: datetime | None = None) -> State | None:
        """End a queued dispatch that nobody wants any more, or that has no attempt left. Returns its state then."""

    def abandon(self, dispatch_id: UUID, reason: str, now: datetime | None = None) -> bool:
        """Fail a queued dispatch that nobody can run. Returns False if it is not queued any more."""

    def cancel(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        """Cancel what has not begun. Returns False if it was cancelled before: it stays so.

        Raises DispatchConflictError for any other state.
        """

    def cancel_all(self, ids: Collection[UUID], now: datetime | None = None) -> list[UUID]:
        """Cancel those of these that have not begun. Returns which it cancelled."""

    def stop(self, dispatch_id: UUID, run: Run, now: datetime | None = None) -> bool:
        """Cancel an attempt that its worker is about to stop. Returns False if it does not run any more."""

    def expire(self, dispatch_id: UUID, now: datetime | None = None) -> bool:
        """Expire a queued dispatch that nobody wants any more. Returns False if there is nothing to expire."""

    # Dead letters: what failed for good, or expired, and can be run again

    def revive(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:
        """Have a dead letter run again, under the same id, with all its attempts. Returns False if it is none."""

    def discard(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:
        """Drop the request of a dead letter, so that it can never run again. Returns False if it is none."""

    def dead_letters(self, selection: Selection) -> Iterator[UUID]:
        """The ids of those that are selected, one after the other, also while they are revived or discarded."""

    def count_dead_letters(self, selection: Selection) -> int:
        """How many are selected."""

    def dead_letters_by_error(self, selection: Selection) -> list[DeadLetters]:
        """Those that are selected, the largest group first."""

    # One dispatch

    def find(self, dispatch_id: UUID) -> Dispatch | None:
        """The dispatch. One whose time is over expires by being looked at."""

    def find_all(self, ids: Collection[UUID]) -> dict[UUID, Dispatch]:
        """The same for many, by id."""

    def find_by_key(self, idempotency_key: str) -> Dispatch | None:
        """The same by the digest that is unique."""

    def sealed(self, dispatch_id: UUID) -> SealedRequest | None:
        """The dispatch with its sealed request."""

    def response(self, dispatch: Dispatch) -> str | None:
        """The sealed response; None if there is none any more, or if it is none that a ledger stored.

        Raises UnavailableError if the result store does not answer.
        """

    def last_wanted(self, dispatch: Dispatch) -> datetime:
        """When somebody asked for it: when it was accepted, or last revived."""

    def is_revived(self, dispatch_id: UUID) -> bool:
        """Whether somebody in charge had it run again."""

    # What is due: at most so many, the first one first, without those to skip

    def queues(self, state: State) -> Iterator[str]:
        """Each queue that has a dispatch in this state."""

    def due_queues(self, now: datetime, most: int) -> set[str]:
        """The queues of the first dispatches that are to be published."""

    def to_publish(self, queue: str, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        """Queued dispatches of this queue that are to be published."""

    def published(self, queue: str, before: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        """Queued dispatches of this queue that the message broker has had since `before`, or longer."""

    def lapsed(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        """Running dispatches whose lease ran out."""

    def unwanted(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        """Queued dispatches that nobody wants any more."""

    def forgotten(self, queue: str, before: datetime, most: int) -> list[UUID]:
        """Queued dispatches of this queue that nobody has asked for since `before`."""

    def holds_up(self, queue: str, now: datetime | None = None) -> bool:
        """Whether more than a few dispatches of this queue wait that the reapers should have published."""

    # What operators and gauges ask

    def count(self) -> int:
        """How many dispatches there are."""

    def select(self, selection: Selection, most: int) -> list[Dispatch]:
        """Those that are selected, the youngest first."""

    def depth(self, queue: str, most: int | None = None) -> int:
        """How many dispatches of this queue wait, counted up to `most`."""

    def oldest(self, queue: str) -> datetime | None:
        """When the one was accepted that waits longest for its first attempt."""

    def newest(self, queue: str) -> datetime | None:
        """When the one was accepted that waits in this queue since last."""

    def arrivals(self, queue: str, since: datetime, until: datetime) -> int:
        """How many were accepted into this queue after `since`, and until then."""

    def latest_seal(self) -> str:
        """How the request was sealed that was accepted last, whatever became of it; empty if there is none."""

    def late(self, before: datetime) -> list[Group]:
        """By queue: what was accepted before and still waits, though it is due, and was not handed back."""

    def handed_back(self) -> list[Group]:
        """By queue: what workers have handed back, and an error of theirs."""

    def overdue(self, now: datetime) -> list[Group]:
        """By worker: what runs there though its lease ran out, and when the first one did."""

    def at_work(self, now: datetime) -> set[tuple[str, str]]:
        """Worker and queue of whatever runs under a lease."""

    # Housekeeping

    def keep_house(self, now: datetime | None = None, *, of_former_queues: bool = False) -> Iterator[int]:
        """Drop the responses and delete the dispatches whose time is over, in small steps.

        Yields after each step how many dispatches it deleted. `of_former_queues` includes those of queues that are not
        configured any more.
        """
