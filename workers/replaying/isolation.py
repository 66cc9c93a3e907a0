"""Undo what a view changes in its process or its context, before the next replay."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what `signal` wraps in enums, which take ten times as long
import asyncio
import contextlib
import contextvars
import decimal
import gc
import locale
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from django.urls import set_urlconf
from django.utils import timezone, translation

from workers.replaying.caches import CacheClients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

logger = logging.getLogger("workers.replaying.isolation")

SIGNALS = tuple(sorted(number for number in signal.valid_signals() if number < getattr(signal, "SIGRTMIN", 65)))

TIMERS = {
    signal.ITIMER_REAL: signal.SIGALRM,
    signal.ITIMER_VIRTUAL: signal.SIGVTALRM,
    signal.ITIMER_PROF: signal.SIGPROF,
}

LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
)

TRIES = 3
"""How often a timer's handler may interrupt the code that stops the timers."""

_THREADS_ARE_REAL = threading.get_ident.__module__ == "_thread"

_OF_THE_POOL = ("billiard", "celery")
"""Packages whose signal handlers change while a worker runs. They are kept."""


def isolated(function: Callable[[], T]) -> T:
    """Call the function in a separate context, then restore the process to its state before the first call.

    In a pool of threads, it is restored when no thread runs a view any more.
    """
    state = _baseline()
    with _thread_kept(), state.in_use():
        return contextvars.copy_context().run(_in_clean_context, function, state)


def _in_clean_context(function: Callable[[], T], state: ProcessState) -> T:
    """Remove what the project's own tasks left in this thread. Decimal contexts are mutable and so copied."""
    decimal.setcontext(state.decimal_context.copy())
    translation.deactivate()
    timezone.deactivate()
    set_urlconf(None)
    with state.cache_clients.lent():
        return function()


@contextlib.contextmanager
def _thread_kept() -> Iterator[None]:
    """Restore this thread's state. An event loop that still seems to run would block any use of the database."""
    mask, loop = _read_mask(), asyncio._get_running_loop()
    try:
        yield
    finally:
        if _THREADS_ARE_REAL:  # green threads share one thread, and another may run a loop
            asyncio._set_running_loop(loop)
        _attempt("signal mask", _restore_mask, mask)


def _attempt(name: str, restore: Callable[..., None], *arguments: Any) -> bool:
    """Returns whether it succeeded. If not, the answer still counts, and other parts must be restored."""
    try:
        restore(*arguments)
    except Exception as error:  # noqa: BLE001 - a view's signal handler may raise anything
        logger.error("The %s cannot be restored: %s", name, type(error).__name__)
        return False
    return True


def _read_mask() -> set[int]:
    mask: set[int] = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return mask


def _restore_mask(before: set[int]) -> None:
    """Consume pending timer signals first: without the view's handler, they would end the process."""
    blocked = _read_mask() - before
    for number in blocked & signal.sigpending() & set(TIMERS.values()) if blocked else ():
        signal.sigwait([number])
    if _read_mask() != before:
        logger.warning("A view left another signal mask behind")
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ProcessState:
    """Working directory, umask, environment, locale, signal handlers and more, as they were when it was created."""

    def __init__(self) -> None:
        self._environ = os.environ
        self._values = {name: read() for name, (read, _write) in _PARTS.items()}
        self._handlers = {number: _signal.getsignal(number) for number in SIGNALS}
        self._intervals = {which: signal.getitimer(which)[1] for which in TIMERS}
        self._umask = os.umask(0o77)
        os.umask(self._umask)
        self.decimal_context = decimal.getcontext().copy()
        self.cache_clients = CacheClients()
        self._users = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Restore everything after the block, unless another thread is in such a block."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            try:
                any(_attempt("timers", self._restore_timers) for _ in range(TRIES))
            finally:
                with self._lock:
                    self._users -= 1
                    if not self._users:
                        self.restore()

    def restore(self) -> None:
        """Restore what was changed. Each part that cannot be restored is logged."""
        if threading.current_thread() is threading.main_thread():
            _attempt("signal handlers", self._restore_handlers)
        if os.environ is not self._environ:
            logger.warning("A view left another os.environ behind")
            os.environ = self._environ  # noqa: B003 - restores the original object, which others refer to
        for name in _PARTS:
            _attempt(name, self._restore_part, name)
        if os.umask(self._umask) != self._umask:
            logger.warning("A view left another umask behind")

    def _restore_part(self, name: str) -> None:
        (read, write), before = _PARTS[name], self._values[name]
        if read() != before:
            logger.warning("A view left another %s behind", name)
            write(before)

    def _restore_timers(self) -> None:
        """Stop timers before their handlers are restored: without a handler, such a signal ends the process."""
        for which, interval in self._intervals.items():
            if signal.getitimer(which)[1] != interval or not interval:
                signal.setitimer(which, interval, interval)

    def _restore_handlers(self) -> None:
        for number, before in self._handlers.items():
            now = _signal.getsignal(number)
            if now is before or now is None or before is None or _package_of(now) in _OF_THE_POOL:
                continue
            signal.signal(number, before)


_made: dict[int, ProcessState] = {}
_making = threading.Lock()


def _baseline() -> ProcessState:
    """Returns the state of this process before its first replay. A forked process has its own."""
    process = os.getpid()
    if state := _made.get(process):
        return state
    with _making:
        if process not in _made:
            _made.clear()
            _made[process] = ProcessState()
        return _made[process]


def _package_of(handler: Any) -> str:
    return str(getattr(handler, "__module__", "")).partition(".")[0]


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - three times as fast as Path.cwd
    except FileNotFoundError:
        return None


def _enter(directory: str | None) -> None:
    if directory is not None:
        os.chdir(directory)


def _environment() -> dict[Any, Any]:
    """Returns the undecoded variables, because decoding them takes a hundred times as long."""
    kept: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined] # private in CPython
    return kept.copy()


def _restore_environment(before: dict[Any, Any]) -> None:
    variables = {os.environ.decodekey(name): os.environ.decodevalue(value) for name, value in before.items()}
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
    time.tzset()


def _limits() -> tuple[tuple[int, int], ...]:
    return tuple(map(resource.getrlimit, LIMITS))


def _restore_limits(before: tuple[tuple[int, int], ...]) -> None:
    for limit, values in zip(LIMITS, before, strict=True):
        resource.setrlimit(limit, values)


def _garbage_collector() -> tuple[bool, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_threshold()


def _restore_garbage_collector(before: tuple[bool, tuple[int, int, int]]) -> None:
    enabled, threshold = before
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*threshold)


def _restore_streams(before: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = before


_PARTS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "working directory": (_directory, _enter),
    "environment": (_environment, _restore_environment),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)),
    "default timeout of sockets": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "garbage collector": (_garbage_collector, _restore_garbage_collector),
    "resource limits": (_limits, _restore_limits),
    "switch interval of threads": (sys.getswitchinterval, sys.setswitchinterval),
    "limit on digits": (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "standard output": (lambda: (sys.stdout, sys.stderr), _restore_streams),
    "level below which nothing is logged": (lambda: logging.root.manager.disable, logging.disable),
}
