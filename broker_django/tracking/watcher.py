"""One thread polls all dispatches that clients of this process wait for.

So a held client needs no connection to the database or Redis. The thread starts when a client waits, opens one
connection to each, and ends soon after the last client left. Announcements are only hints to read the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
import traceback
from typing import TYPE_CHECKING

from django.db import connections

from broker_core.errors import UnavailableError
from broker_core.redaction import redacted
from broker_django.ledger import ledger
from broker_django.messaging.forking import fork_lock
from broker_django.messaging.notifications import Subscription, redis_url
from broker_django.models import database

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable, Iterator

    from broker_core.dispatches import Dispatch

logger = logging.getLogger("broker_django.tracking.watcher")

FIRST_STEP = 0.01
LAST_STEP = 0.5
"""Seconds between polls without announcements. They grow from the first to the last."""
ANNOUNCED_STEP = 1.0
"""Seconds between polls if changes are announced."""
RECONNECT_AFTER = 10.0
"""Seconds until the next attempt to connect after Redis failed, because connecting delays all waiting clients."""
LINGER = 1.0
"""Seconds for which the idle thread keeps its connections."""


class UnwatchedError(UnavailableError):
    """The process can open no more files or threads, so no client can wait."""


class Waiter:
    """A client that waits until `wanted` returns True for the dispatch. The watcher's thread then calls `wake` once."""

    def __init__(self, dispatch_id: uuid.UUID, wanted: Callable[[Dispatch], bool], wake: Callable[[], object]) -> None:
        self.dispatch_id = dispatch_id
        self._wanted = wanted
        self._wake = wake
        self.dispatch: Dispatch | None = None

    def offer(self, dispatch: Dispatch) -> None:
        if self.dispatch is None and self._wanted(dispatch):
            self.dispatch = dispatch
            self._wake()


class _Watched:
    """A dispatch that clients wait for, and when to poll it next."""

    def __init__(self) -> None:
        self.waiters: set[Waiter] = set()
        self.poll_soon()

    def poll_soon(self) -> None:
        """Poll at once, and often at first, because a client has just begun to wait."""
        self.due = 0.0
        self.step = FIRST_STEP

    def schedule(self, now: float, *, announced: bool) -> None:
        self.due = now + (ANNOUNCED_STEP if announced else self.step)
        self.step = min(self.step * 1.5, LAST_STEP)


class Watcher:
    """The dispatches that this process waits for, and the thread that polls them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start without clients: a forked process has neither the thread nor the clients of its parent."""
        self._lock = threading.Lock()
        self._watched: dict[uuid.UUID, _Watched] = {}
        self._thread: threading.Thread | None = None
        self._wakeup: socket.socket | None = None
        """Writing to it wakes the thread, which reads the other end."""

    @contextlib.contextmanager
    def waiting(self, waiter: Waiter) -> Iterator[None]:
        """Wake the waiter while the block runs. Raises UnwatchedError if no thread can be started."""
        try:
            self._add(waiter)
            yield
        finally:
            self._remove(waiter)

    def _add(self, waiter: Waiter) -> None:
        with self._lock:
            if self._thread is None:
                self._start()
            watched = self._watched.setdefault(waiter.dispatch_id, _Watched())
            watched.waiters.add(waiter)
            watched.poll_soon()
        self._wake_thread()

    def _remove(self, waiter: Waiter) -> None:
        with self._lock:
            watched = self._watched.get(waiter.dispatch_id)
            if watched is None:
                return
            watched.waiters.discard(waiter)
            if not watched.waiters:
                del self._watched[waiter.dispatch_id]

    def _start(self) -> None:
        with contextlib.ExitStack() as opened:
            try:
                wakeup, other = map(opened.enter_context, socket.socketpair())
                poller = _Poller(self, other, opened.enter_context(selectors.DefaultSelector()))
                thread = threading.Thread(target=self._run, args=[poller], name="request-broker-watcher", daemon=True)
                thread.start()
            except (OSError, RuntimeError) as error:
                logger.warning("Clients cannot wait: %s", redacted(error))
                raise UnwatchedError("this process can hold no client now") from error
            opened.pop_all()  # the thread closes them
        wakeup.settimeout(0)
        self._thread, self._wakeup = thread, wakeup

    def _wake_thread(self) -> None:
        wakeup = self._wakeup
        if wakeup is not None:
            with contextlib.suppress(OSError):  # the buffer is full, so the thread will wake; or it has ended
                wakeup.send(b"\0")

    def _run(self, poller: _Poller) -> None:
        while not self._is_over(poller):
            try:
                poller.poll()
            except Exception as error:  # noqa: BLE001 - the thread must continue for the waiting clients
                frames = "".join(traceback.format_tb(error.__traceback__))
                logger.error("The watcher failed: %s\n%s", redacted(error), frames)
                poller.disconnect()
                time.sleep(LAST_STEP)
        poller.close()

    def _is_over(self, poller: _Poller) -> bool:
        """Whether the thread ends, because no client has waited for a while. The next client starts another."""
        with self._lock:
            if self._watched or not poller.idle:
                return False
            self._thread = None
            if self._wakeup is not None:
                self._wakeup.close()
            return True

    # For the thread

    def ids(self) -> set[uuid.UUID]:
        with self._lock:
            return set(self._watched)

    def due(self, now: float, announced: Iterable[uuid.UUID]) -> list[uuid.UUID]:
        """Returns the dispatches to poll, with those that are nearly due: one query reads them all."""
        with self._lock:
            for dispatch_id in announced:
                if dispatch_id in self._watched:
                    self._watched[dispatch_id].due = now
            if not any(watched.due <= now for watched in self._watched.values()):
                return []
            return [key for key, watched in self._watched.items() if watched.due <= now + watched.step / 2]

    def next_due(self) -> float | None:
        with self._lock:
            return min((watched.due for watched in self._watched.values()), default=None)

    def deliver(self, polled: Iterable[uuid.UUID], found: dict[uuid.UUID, Dispatch], *, announced: bool) -> None:
        """Offer the dispatches to their waiters, and schedule the next poll."""
        now = time.monotonic()
        with self._lock:
            for dispatch_id in polled:
                watched = self._watched.get(dispatch_id)
                if watched is not None:
                    watched.schedule(now, announced=announced)
                    for waiter in watched.waiters if dispatch_id in found else ():
                        waiter.offer(found[dispatch_id])

    def postpone(self, ids: Iterable[uuid.UUID]) -> None:
        later = time.monotonic() + LAST_STEP
        with self._lock:
            for dispatch_id in ids:
                if dispatch_id in self._watched:
                    self._watched[dispatch_id].due = later


class _Poller:
    """Polls in the watcher's thread, with its own connections."""

    def __init__(self, watcher: Watcher, wakeup: socket.socket, selector: selectors.BaseSelector) -> None:
        self._watcher = watcher
        self._wakeup = wakeup
        self._wakeup.settimeout(0)
        self._selector = selector
        self._selector.register(wakeup, selectors.EVENT_READ)
        self._subscription: Subscription | None = None
        self._reconnect_at = 0.0
        self._idle_since = time.monotonic()
        self._ledger_failed = False

    @property
    def idle(self) -> bool:
        return time.monotonic() - self._idle_since >= LINGER

    def poll(self) -> None:
        """Read the dispatches that are due, and sleep until others are."""
        ids = self._watcher.ids()
        if ids:
            self._idle_since = time.monotonic()
        with fork_lock:
            announced = self._listen(ids)
            due = self._watcher.due(time.monotonic(), announced)
            if due:
                self._read(due)
        self._sleep()

    def _listen(self, ids: set[uuid.UUID]) -> list[uuid.UUID]:
        """Subscribe to these dispatches. Returns those with announced changes."""
        url = redis_url()
        if url is None or time.monotonic() < self._reconnect_at or not (ids or self._subscription):
            return []
        try:
            if self._subscription is None:
                self._subscription = Subscription(url)
            self._watcher.postpone(self._subscription.follow(ids))  # `heard` returns them when no change can be missed
            heard = self._subscription.heard()
            self._register(self._subscription.socket)
            return heard
        except Subscription.ERRORS as error:
            logger.warning("Cannot subscribe to Redis, so waiting clients poll the ledger: %s", redacted(error))
            self._reconnect_at = time.monotonic() + RECONNECT_AFTER
            self._unsubscribe()
            return []

    def _register(self, sock: socket.socket | None) -> None:
        known = {key.fileobj for key in self._selector.get_map().values()}
        for old in known - {self._wakeup, sock}:
            self._selector.unregister(old)
        if sock is not None and sock not in known:
            self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, due: list[uuid.UUID]) -> None:
        try:
            database.read_without_locks()
            found = ledger.find_all(due)
        except ledger.failures as error:
            if not self._ledger_failed:
                logger.warning("The ledger cannot be read for waiting clients: %s", redacted(error))
            self._ledger_failed = True
            connections.close_all()
            self._watcher.postpone(due)
            return
        self._ledger_failed = False
        self._watcher.deliver(due, found, announced=self._subscription is not None)

    def _sleep(self) -> None:
        following = self._watcher.next_due()
        seconds = LINGER if following is None else following - time.monotonic()
        self._selector.select(max(seconds, 0.0))
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._register(None)
            self._subscription.close()
            self._subscription = None

    def disconnect(self) -> None:
        with fork_lock:
            self._unsubscribe()
            connections.close_all()

    def close(self) -> None:
        self.disconnect()
        self._selector.close()
        self._wakeup.close()


watcher = Watcher()
os.register_at_fork(after_in_child=watcher.reset)
