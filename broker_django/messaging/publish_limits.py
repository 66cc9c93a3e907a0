"""Room on the message broker: how much of a queue is published at once. What exceeds it waits in the ledger.

A message broker keeps messages in memory, the ledger keeps them on disk. Each process knows how many messages of a
queue waited a moment ago, since it asks once a second right after it published one, and what it published since. From
the bound on it publishes none: the workers' reapers publish what the ledger holds, the oldest first, as there is room.
It publishes again once the reapers have caught up: the message broker is half empty, and hardly anything in the ledger
has been due for longer than they need to come by. To wait until the ledger holds nothing would be to wait for a pause
in the traffic, as each new dispatch is held there too.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from broker_django.conf import conf

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_core.policies import QueuePolicy

ASK_EVERY = 1.0
"""Seconds between two questions to the message broker, or to the ledger."""
LOW_WATER = 0.5
"""The part of the bound below which a queue that was full takes messages again."""


class Room:
    """What this process knows of one queue. Threads share it; that it is off by a few does no harm."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._asked_at: float | None = None
        self._waiting = 0
        self._published = 0
        self._is_full = False

    def is_full(self, most: int, holds: Callable[[], bool], ask: Callable[[], int | None]) -> bool:
        """Whether the next one waits in the ledger.

        `holds` tells whether the ledger holds some that the reapers should have published by now, `ask` how many
        messages wait, or None if the message broker does not tell.
        """
        if not self._is_full:
            self._is_full = self._waiting + self._published >= most
        elif self._is_time() and not holds():
            self._waiting, self._published = ask() or 0, 0
            self._is_full = self._waiting >= most * LOW_WATER
        return self._is_full

    def note(self, ask: Callable[[], int]) -> None:
        """This process has published one. `ask` tells how many messages wait then."""
        self._published += 1
        if self._is_time():
            self._published = 0
            self._waiting = ask()

    def _is_time(self) -> bool:
        now = self._now()
        if self._asked_at is not None and now - self._asked_at < ASK_EVERY:
            return False
        self._asked_at = now
        return True


class Rooms:
    """A room for each queue that has a bound."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._rooms: dict[str, Room] = {}

    def of(self, queue: str) -> Room:
        return self._rooms.get(queue) or self._rooms.setdefault(queue, Room(self._now))

    def is_full(self, queue: str, holds: Callable[[], bool], ask: Callable[[QueuePolicy], int | None]) -> bool:
        """Whether the next dispatch of this queue waits in the ledger. Both are called as in `Room.is_full`."""
        policy = conf.queues.get(queue)
        if policy is None or policy.max_published is None:
            return False
        return self.of(queue).is_full(policy.max_published, holds, lambda: ask(policy))

    def note(self, queue: str, policy: QueuePolicy, ask: Callable[[], int]) -> None:
        """One of this queue was published."""
        if policy.max_published is not None:
            self.of(queue).note(ask)

    def forget(self) -> None:
        self._rooms = {}


rooms = Rooms()
os.register_at_fork(after_in_child=rooms.forget)
