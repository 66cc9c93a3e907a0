"""Limits on waiting clients: a client that waits for a response uses resources that others need."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

SHARE = 0.25
"""The part of its time that a process may spend on waits if it serves, or may serve, one request at a time."""
AT_A_TIME = 1.0
"""The longest such wait, in seconds."""
LEAST = 0.05
"""The shortest such wait, in seconds; anything shorter is not worth it."""


class Server(StrEnum):
    """What a waiting client uses: a coroutine, one of several threads, or the only thread of the process."""

    LOOP = "loop"
    THREADS = "threads"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many clients may wait in one process at once. `threads` limits those that each occupy a thread."""

    total: int
    per_client: int
    per_dispatch: int
    threads: int


@dataclass(frozen=True, slots=True)
class Guest:
    """A client that wants to wait, for which dispatch, and what it uses meanwhile."""

    client: str
    dispatch: Hashable
    server: Server


class TimeBudget:
    """A budget of time. What is not used is saved, up to `AT_A_TIME` seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._saved = AT_A_TIME
        self._at = now()

    @property
    def left(self) -> float:
        return min(AT_A_TIME, self._saved + (self._now() - self._at) * SHARE)

    def spend(self, seconds: float) -> None:
        self._saved, self._at = self.left - seconds, self._now()


class Places:
    """The clients that wait in this process. `now` is a monotonic clock in seconds.

    No WSGI server says how many threads it has. So at most half of the threads seen so far may wait; the others
    continue to serve pages. Until a second thread is seen, waits are limited as in a process with one thread.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.reset()

    def reset(self) -> None:
        """Start without clients: a forked process has none of its parent's."""
        self._lock = threading.Lock()
        self._held = self._threads = 0
        self._clients: Counter[str] = Counter()
        self._dispatches: Counter[Hashable] = Counter()
        self._seen: set[str] = set()
        self._budget = TimeBudget(self._now)

    @property
    def held(self) -> int:
        return self._held

    @contextlib.contextmanager
    def hold(self, guest: Guest, seconds: float, limits: Limits) -> Iterator[float]:
        """Let the client wait while the context lasts. Yields the seconds that it may wait, 0 if it may not."""
        rationed, allowed = self._enter(guest, seconds, limits)
        if not allowed:
            yield 0.0
            return
        began = self._now()
        try:
            yield allowed
        finally:
            self._leave(guest, self._now() - began if rationed else 0.0)

    def register_thread(self, enough: int = 2) -> None:
        """Count this thread as one that serves requests. Does nothing if `enough` threads are known."""
        if len(self._seen) < enough:
            self._seen.add(threading.current_thread().name)

    def _enter(self, guest: Guest, seconds: float, limits: Limits) -> tuple[bool, float]:
        """Returns whether the wait uses the budget, and how long it may last."""
        with self._lock:
            if guest.server is Server.THREADS:
                self.register_thread(2 * limits.threads)
            rationed = guest.server is Server.ALONE or (guest.server is Server.THREADS and len(self._seen) < 2)
            allowed = self._allowed(guest, seconds, limits, rationed=rationed)
            if allowed:
                self._count(guest, 1)
            return rationed, allowed

    def _allowed(self, guest: Guest, seconds: float, limits: Limits, *, rationed: bool) -> float:
        if (
            self._held >= limits.total
            or self._clients[guest.client] >= limits.per_client
            or self._dispatches[guest.dispatch] >= limits.per_dispatch
        ):
            return 0.0
        if guest.server is Server.THREADS and self._threads >= min(limits.threads, max(1, len(self._seen) // 2)):
            return 0.0
        if rationed:
            seconds = min(seconds, self._budget.left)
        return seconds if seconds >= LEAST or not rationed else 0.0

    def _leave(self, guest: Guest, spent: float) -> None:
        with self._lock:
            self._count(guest, -1)
            self._budget.spend(spent)

    def _count(self, guest: Guest, change: int) -> None:
        self._held += change
        self._threads += change if guest.server is Server.THREADS else 0
        for counter, key in ((self._clients, guest.client), (self._dispatches, guest.dispatch)):
            counter[key] += change  # type: ignore[index] # one of each kind
            if not counter[key]:  # type: ignore[index]
                del counter[key]
