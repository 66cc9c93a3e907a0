"""How many clients are held at once, and for how long: whoever waits for an answer uses up what others need."""

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
"""The part of a process's time that waits may take where it serves one request at a time."""
AT_A_TIME = 1.0
"""Seconds that such a wait may take."""
LEAST = 0.05
"""Seconds below which a wait is not worth its while."""


class Server(StrEnum):
    """What a held client uses up: a coroutine, one of several threads, or all that the process has."""

    LOOP = "loop"
    THREADS = "threads"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many clients one process holds at once. `threads` are those that may be held where threads serve."""

    total: int
    per_client: int
    per_dispatch: int
    threads: int


@dataclass(frozen=True, slots=True)
class Guest:
    """Who is to be held, for which dispatch, and by what."""

    client: str
    dispatch: Hashable
    server: Server


class Share:
    """A part of the time: what is not used is saved, up to `AT_A_TIME` seconds."""

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
    """The clients that this process holds. `now` is a monotonic clock in seconds.

    Nobody can ask a WSGI server how many threads it has. So at most half of the threads that have been seen here are
    held, and one at least: the others go on serving pages.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.forget()

    def forget(self) -> None:
        """Nobody is held: a process that was forked has none of its parent's clients."""
        self._lock = threading.Lock()
        self._held = self._threads = 0
        self._clients: Counter[str] = Counter()
        self._dispatches: Counter[Hashable] = Counter()
        self._seen: set[str] = set()
        self._share = Share(self._now)

    @property
    def held(self) -> int:
        return self._held

    @contextlib.contextmanager
    def hold(self, guest: Guest, seconds: float, limits: Limits) -> Iterator[float]:
        """Hold the client for as long as the context lasts; yields the seconds that it may last, 0 for not at all."""
        allowed = self._enter(guest, seconds, limits)
        if not allowed:
            yield 0.0
            return
        began = self._now()
        try:
            yield allowed
        finally:
            self._leave(guest, self._now() - began)

    def _enter(self, guest: Guest, seconds: float, limits: Limits) -> float:
        with self._lock:
            if guest.server is Server.THREADS:
                self._see_thread(limits)
            allowed = self._allowed(guest, seconds, limits)
            if allowed:
                self._count(guest, 1)
            return allowed

    def _see_thread(self, limits: Limits) -> None:
        if len(self._seen) < 2 * limits.threads:
            self._seen.add(threading.current_thread().name)

    def _allowed(self, guest: Guest, seconds: float, limits: Limits) -> float:
        if (
            self._held >= limits.total
            or self._clients[guest.client] >= limits.per_client
            or self._dispatches[guest.dispatch] >= limits.per_dispatch
        ):
            return 0.0
        if guest.server is Server.THREADS and self._threads >= min(limits.threads, max(1, len(self._seen) // 2)):
            return 0.0
        if guest.server is Server.ALONE:
            seconds = min(seconds, self._share.left)
        return seconds if seconds >= LEAST or guest.server is not Server.ALONE else 0.0

    def _leave(self, guest: Guest, lasted: float) -> None:
        with self._lock:
            self._count(guest, -1)
            if guest.server is Server.ALONE:
                self._share.spend(lasted)

    def _count(self, guest: Guest, change: int) -> None:
        self._held += change
        self._threads += change if guest.server is Server.THREADS else 0
        for counter, key in ((self._clients, guest.client), (self._dispatches, guest.dispatch)):
            counter[key] += change  # type: ignore[index] # one of each kind
            if not counter[key]:  # type: ignore[index]
                del counter[key]
