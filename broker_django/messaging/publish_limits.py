"""Limits how many messages of a queue are published at once. Further dispatches wait in the ledger.

A message broker keeps messages in memory, the ledger keeps them on disk. Each process knows roughly how many messages
of a queue wait: it asks once a second, right after it has published one, and counts what it publishes in between. When
the limit is reached, it publishes no more: the workers' reapers publish the waiting dispatches, oldest first.

The process publishes again once the reapers have caught up: the message broker is half empty, and hardly any dispatch
in the ledger has waited longer than the reapers need. It cannot wait until none is left, because each new dispatch
waits there too.
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
"""A queue that was full accepts messages again below this fraction of its limit."""


class PublishLimit:
    """What this process knows about one queue. Threads share it; small errors do no harm."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._asked_at: float | None = None
        self._waiting = 0
        self._published = 0
        self._is_full = False

    def is_full(self, most: int, holds: Callable[[], bool], ask: Callable[[], int | None]) -> bool:
        """Whether the next dispatch must wait in the ledger.

        `holds` returns whether the ledger contains dispatches that the reapers should have published by now. `ask`
        returns how many messages wait, or None if that is unknown.
        """
        if not self._is_full:
            self._is_full = self._waiting + self._published >= most
        elif self._is_time() and not holds():
            self._waiting, self._published = ask() or 0, 0
            self._is_full = self._waiting >= most * LOW_WATER
        return self._is_full

    def count_published(self, ask: Callable[[], int]) -> None:
        """Count a message that this process has published. `ask` returns how many messages wait."""
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


class PublishLimits:
    """A limit for each queue with `max_published`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._limits: dict[str, PublishLimit] = {}

    def of(self, queue: str) -> PublishLimit:
        return self._limits.get(queue) or self._limits.setdefault(queue, PublishLimit(self._now))

    def is_full(self, queue: str, holds: Callable[[], bool], ask: Callable[[QueuePolicy], int | None]) -> bool:
        """Whether the next dispatch of this queue must wait in the ledger.

        For the functions see `PublishLimit.is_full`.
        """
        policy = conf.queues.get(queue)
        if policy is None or policy.max_published is None:
            return False
        return self.of(queue).is_full(policy.max_published, holds, lambda: ask(policy))

    def count_published(self, queue: str, policy: QueuePolicy, ask: Callable[[], int]) -> None:
        if policy.max_published is not None:
            self.of(queue).count_published(ask)

    def reset(self) -> None:
        self._limits = {}


publish_limits = PublishLimits()
os.register_at_fork(after_in_child=publish_limits.reset)
