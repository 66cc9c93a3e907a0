"""One thread of a process looks at all dispatches that clients of this process wait for.

So a held client keeps neither a database connection nor one to Redis. The thread is started when somebody waits, has
one connection to each, and ends with them soon after the last one left. Announcements are hints: the ledger is asked.
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
"""Seconds between looks at a dispatch where nothing announces changes: growing from the first to the last."""
ANNOUNCED_STEP = 1.0
"""Seconds between looks at a dispatch where changes are announced."""
DEAF = 10.0
"""Seconds without announcements after Redis did not answer: connecting to it holds up everybody who waits."""
LINGER = 1.0
"""Seconds for which the connections are kept for the next who waits."""


class UnwatchedError(UnavailableError):
    """The process may open no more files, or start no more threads: nobody can be woken."""


class Waiter:
    """Somebody who waits until the dispatch is as `wanted` says. `wake` is called from the watcher's thread, once."""

    def __init__(self, dispatch_id: uuid.UUID, wanted: Callable[[Dispatch], bool], wake: Callable[[], object]) -> None:
        self.dispatch_id = dispatch_id
        self._wanted = wanted
        self._wake = wake
        self.dispatch: Dispatch | None = None

    def offer(self, dispatch: Dispatch) -> None:
        """Show the dispatch as it is now."""
        if self.dispatch is None and self._wanted(dispatch):
            self.dispatch = dispatch
            self._wake()


class _Watched:
    """A dispatch that somebody waits for, and when to look at it."""

    def __init__(self) -> None:
        self.waiters: set[Waiter] = set()
        self.begin()

    def begin(self) -> None:
        """Somebody came: look at once, and often at first."""
        self.due = 0.0
        self.step = FIRST_STEP

    def looked_at(self, now: float, *, announced: bool) -> None:
        self.due = now + (ANNOUNCED_STEP if announced else self.step)
        self.step = min(self.step * 1.5, LAST_STEP)


class Watcher:
    """What this process waits for, and the thread that looks."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A process that was forked has neither the thread nor the clients of its parent."""
        self._lock = threading.Lock()
        self._watched: dict[uuid.UUID, _Watched] = {}
        self._thread: threading.Thread | None = None
        self._bell: socket.socket | None = None
        """The end that rings; the thread hears the other."""

    @contextlib.contextmanager
    def waiting(self, waiter: Waiter) -> Iterator[None]:
        """Have the waiter woken while the context lasts. Raises UnwatchedError if no thread can be started for it."""
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
            watched.begin()
        self._ring()

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
                heard, bell = map(opened.enter_context, socket.socketpair())
                look = _Look(self, heard, opened.enter_context(selectors.DefaultSelector()))
                thread = threading.Thread(target=self._run, args=[look], name="request-broker-watcher", daemon=True)
                thread.start()
            except (OSError, RuntimeError) as error:
                logger.warning("Clients cannot wait: %s", redacted(error))
                raise UnwatchedError("nobody can wait here now") from error
            opened.pop_all()  # they are the thread's
        bell.settimeout(0)
        self._thread, self._bell = thread, bell

    def _ring(self) -> None:
        bell = self._bell
        if bell is not None:
            with contextlib.suppress(OSError):  # it has rung so often that it need not again, or the thread has ended
                bell.send(b"\0")

    def _run(self, look: _Look) -> None:
        while not self._ended(look):
            try:
                look.once()
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must not be forgotten
                where = "".join(traceback.format_tb(error.__traceback__))
                logger.error("The watcher stumbled: %s\n%s", redacted(error), where)
                look.begin_again()
                time.sleep(LAST_STEP)
        look.close()

    def _ended(self, look: _Look) -> bool:
        """Whether nobody has waited for a while: the thread ends. Whoever comes next starts another."""
        with self._lock:
            if self._watched or not look.idle:
                return False
            self._thread = None
            if self._bell is not None:
                self._bell.close()
            return True

    # What the thread asks

    def ids(self) -> set[uuid.UUID]:
        with self._lock:
            return set(self._watched)

    def due(self, now: float, announced: Iterable[uuid.UUID]) -> list[uuid.UUID]:
        """What is to be looked at, with what is nearly due: one query is for all of them."""
        with self._lock:
            for dispatch_id in announced:
                if dispatch_id in self._watched:
                    self._watched[dispatch_id].due = now
            if not any(watched.due <= now for watched in self._watched.values()):
                return []
            return [key for key, watched in self._watched.items() if watched.due <= now + watched.step / 2]

    def next_look(self) -> float | None:
        with self._lock:
            return min((watched.due for watched in self._watched.values()), default=None)

    def show(self, looked_at: Iterable[uuid.UUID], found: dict[uuid.UUID, Dispatch], *, announced: bool) -> None:
        """Tell those who wait what was found."""
        now = time.monotonic()
        with self._lock:
            for dispatch_id in looked_at:
                watched = self._watched.get(dispatch_id)
                if watched is not None:
                    watched.looked_at(now, announced=announced)
                    for waiter in watched.waiters if dispatch_id in found else ():
                        waiter.offer(found[dispatch_id])

    def put_off(self, not_looked_at: Iterable[uuid.UUID]) -> None:
        """Look at these later."""
        later = time.monotonic() + LAST_STEP
        with self._lock:
            for dispatch_id in not_looked_at:
                if dispatch_id in self._watched:
                    self._watched[dispatch_id].due = later


class _Look:
    """The thread's own: its connections, and how it sleeps."""

    def __init__(self, watcher: Watcher, bell: socket.socket, selector: selectors.BaseSelector) -> None:
        self._watcher = watcher
        self._bell = bell
        self._bell.settimeout(0)
        self._selector = selector
        self._selector.register(bell, selectors.EVENT_READ)
        self._subscription: Subscription | None = None
        self._deaf_until = 0.0
        self._alone_since = time.monotonic()
        self._blind = False

    @property
    def idle(self) -> bool:
        return time.monotonic() - self._alone_since >= LINGER

    def once(self) -> None:
        """Look at what is due, and sleep until something is."""
        ids = self._watcher.ids()
        if ids:
            self._alone_since = time.monotonic()
        with fork_lock:
            announced = self._listen(ids)
            due = self._watcher.due(time.monotonic(), announced)
            if due:
                self._look(due)
        self._sleep()

    def _listen(self, ids: set[uuid.UUID]) -> list[uuid.UUID]:
        """Subscribe to what is waited for; those of which something was heard."""
        url = redis_url()
        if url is None or time.monotonic() < self._deaf_until or not (ids or self._subscription):
            return []
        try:
            if self._subscription is None:
                self._subscription = Subscription(url)
            self._watcher.put_off(self._subscription.follow(ids))  # they are heard of once nothing can be missed
            heard = self._subscription.heard()
            self._register(self._subscription.socket)
            return heard
        except Subscription.ERRORS as error:
            logger.warning("Dispatches are waited for by polling: %s", redacted(error))
            self._deaf_until = time.monotonic() + DEAF
            self._unsubscribe()
            return []

    def _register(self, sock: socket.socket | None) -> None:
        known = {key.fileobj for key in self._selector.get_map().values()}
        for old in known - {self._bell, sock}:
            self._selector.unregister(old)
        if sock is not None and sock not in known:
            self._selector.register(sock, selectors.EVENT_READ)

    def _look(self, due: list[uuid.UUID]) -> None:
        try:
            database.read_without_locks()
            found = ledger.find_all(due)
        except ledger.failures as error:
            if not self._blind:
                logger.warning("The ledger cannot be read for those who wait: %s", redacted(error))
            self._blind = True
            connections.close_all()
            self._watcher.put_off(due)
            return
        self._blind = False
        self._watcher.show(due, found, announced=self._subscription is not None)

    def _sleep(self) -> None:
        following = self._watcher.next_look()
        seconds = LINGER if following is None else following - time.monotonic()
        self._selector.select(max(seconds, 0.0))
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._register(None)
            self._subscription.close()
            self._subscription = None

    def begin_again(self) -> None:
        """Let go of both connections."""
        with fork_lock:
            self._unsubscribe()
            connections.close_all()

    def close(self) -> None:
        self.begin_again()
        self._selector.close()
        self._bell.close()


watcher = Watcher()
os.register_at_fork(after_in_child=watcher.forget)
