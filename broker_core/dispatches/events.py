"""Events: a ledger emits one event for each committed transition to its subscribers."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TYPE_CHECKING

from broker_core.dispatches.dispatch import State
from broker_core.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from broker_core.dispatches.dispatch import Dispatch

    Subscriber = Callable[["Event"], None]

logger = logging.getLogger("broker_core.dispatches.events")


class Kind(StrEnum):
    """What happened to a dispatch."""

    ACCEPTED = "accepted"
    STARTED = "started"
    RETRYING = "retrying"
    """An attempt ended, and another one will follow."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REVIVED = "revived"
    """A dead letter is queued again."""

    @property
    def finished(self) -> bool:
        """Whether the dispatch is done."""
        return self in FINISHED


FINISHED = frozenset(Kind(state) for state in State if state.done)


class Event:
    """A dispatch changed its state.

    A ledger passes the dispatch if the transition had it at hand. Otherwise it is read if a subscriber needs it, once
    for all subscribers. By then it may have changed again.
    """

    __slots__ = ("_attempt", "_dispatch", "_find", "dispatch_id", "kind")

    def __init__(
        self,
        kind: Kind,
        dispatch_id: UUID,
        find: Callable[[UUID], Dispatch | None],
        attempt: int | None = None,
        dispatch: Dispatch | None = None,
    ) -> None:
        self.kind = kind
        self.dispatch_id = dispatch_id
        self._attempt = attempt
        self._find: Callable[[UUID], Dispatch | None] | None = find if dispatch is None else None
        self._dispatch = dispatch

    def __repr__(self) -> str:
        return f"<Event: dispatch {self.dispatch_id} {self.kind}>"

    @property
    def attempt(self) -> int:
        """The number of the attempt that started or ended, or else of the latest one; 0 before the first."""
        if self._attempt is None:
            self._attempt = self.dispatch.attempts if self.dispatch is not None else 0
        return self._attempt

    @property
    def dispatch(self) -> Dispatch | None:
        """The dispatch, or None if it was deleted meanwhile. Raises the ledger's `failures` if it does not answer."""
        if self._find is not None:
            self._dispatch = self._find(self.dispatch_id)
            self._find = None
        return self._dispatch


class Events:
    """The subscribers of a ledger, called one after another."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = subscribers

    def subscribe(self, subscriber: Subscriber, *, first: bool = False) -> None:
        """Call `subscriber` with each later event, in the thread of the transition, which waits for it.

        With `first`, before all others, so that it does not wait for them.
        """
        self._subscribers = (subscriber, *self._subscribers) if first else (*self._subscribers, subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers = tuple(each for each in self._subscribers if each != subscriber)

    def emit(self, event: Event) -> None:
        """Call all subscribers. If one raises, the error is logged and the others are still called."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception as error:  # noqa: BLE001 - the transition is committed whatever happens
                context = {"dispatch_id": str(event.dispatch_id)}
                name = getattr(subscriber, "__qualname__", subscriber)
                logger.error("%s failed on %r: %s", name, event, redacted(error), extra=context)
