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
"""The part of a process's time that waits may take if it serves one request at a time, or may do so."""
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
    held: the others go on serving pages. Until a second one was seen, waits are rationed, as if there were none.
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
        rationed, allowed = self._enter(guest, seconds, limits)
        if not allowed:
            yield 0.0
            return
        began = self._now()
        try:
            yield allowed
        finally:
            self._leave(guest, self._now() - began if rationed else 0.0)

    def see_thread(self, enough: int = 2) -> None:
        """This thread serves requests. Nothing is done once so many are known."""
        if len(self._seen) < enough:
            self._seen.add(threading.current_thread().name)

    def _enter(self, guest: Guest, seconds: float, limits: Limits) -> tuple[bool, float]:
        """Whether the wait is rationed, and how long it may last."""
        with self._lock:
            if guest.server is Server.THREADS:
                self.see_thread(2 * limits.threads)
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
            seconds = min(seconds, self._share.left)
        return seconds if seconds >= LEAST or not rationed else 0.0

    def _leave(self, guest: Guest, spent: float) -> None:
        with self._lock:
            self._count(guest, -1)
            self._share.spend(spent)

    def _count(self, guest: Guest, change: int) -> None:
        self._held += change
        self._threads += change if guest.server is Server.THREADS else 0
        for counter, key in ((self._clients, guest.client), (self._dispatches, guest.dispatch)):
            counter[key] += change  # type: ignore[index] # one of each kind
            if not counter[key]:  # type: ignore[index]
                del counter[key]
