"""What a view changes in its process or its context is gone before the next replay."""

from __future__ import annotations

import contextlib
import contextvars
import decimal
import locale
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from django.urls import set_urlconf
from django.utils import timezone, translation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

logger = logging.getLogger("workers.isolation")

SIGNALS = tuple(sorted(number for number in signal.valid_signals() if number < getattr(signal, "SIGRTMIN", 65)))

_OF_THE_POOL = ("billiard", "celery")
"""Packages whose signal handlers change while a worker runs: these stay."""


def isolated(function: Callable[[], T]) -> T:
    """Call the function in a context of its own, and give the process back as it was before the first call.

    In a pool of threads that is done when none of them runs a view any more.
    """
    state = _baseline()
    with state.in_use():
        return contextvars.copy_context().run(_afresh, function, state.decimal_context.copy())


def _afresh(function: Callable[[], T], decimal_context: decimal.Context) -> T:
    """Without what a task of the project may have left in this thread. A decimal context is changed in place."""
    decimal.setcontext(decimal_context)
    translation.deactivate()
    timezone.deactivate()
    set_urlconf(None)
    return function()


class ProcessState:
    """The working directory, umask, environment, locale, signal handlers and so on, as they were when it was made."""

    def __init__(self) -> None:
        self._values = {name: read() for name, (read, _write) in _PARTS.items()}
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._umask = os.umask(0o77)
        os.umask(self._umask)
        self.decimal_context = decimal.getcontext().copy()
        self._users = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Put all back after the block, unless another thread is in one like it."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self.restore()

    def restore(self) -> None:
        """Put back what is different. Each part that cannot be put back is logged."""
        for name, (read, write) in _PARTS.items():
            before = self._values[name]
            if read() == before:
                continue
            logger.warning("A view left another %s behind", name)
            try:
                write(before)
            except Exception as error:  # noqa: BLE001 - the other parts have to be put back all the same
                logger.error("The %s cannot be put back: %s", name, type(error).__name__)
        if os.umask(self._umask) != self._umask:
            logger.warning("A view left another umask behind")
        if threading.current_thread() is threading.main_thread():
            self._restore_signals()

    def _restore_signals(self) -> None:
        for number, before in self._handlers.items():
            now = signal.getsignal(number)
            if now is before or now is None or before is None or _package_of(now) in _OF_THE_POOL:
                continue
            signal.signal(number, before)
        if signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0)


_made: dict[int, ProcessState] = {}


def _baseline() -> ProcessState:
    """The state of this process before its first replay; a process that was forked has a state of its own."""
    process = os.getpid()
    if process not in _made:
        _made.clear()
        _made[process] = ProcessState()
    return _made[process]


def _package_of(handler: Any) -> str:
    return str(getattr(handler, "__module__", "")).partition(".")[0]


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a third of the time that Path.cwd takes
    except FileNotFoundError:
        return None


def _enter(directory: str | None) -> None:
    if directory is not None:
        os.chdir(directory)


def _environment() -> dict[Any, Any]:
    """As it is kept: to decode all of it takes a hundred times as long."""
    kept: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined] # private to CPython, since 3.2
    return kept.copy()


def _put_environment(before: dict[Any, Any]) -> None:
    variables = {os.environ.decodekey(name): os.environ.decodevalue(value) for name, value in before.items()}
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
    time.tzset()


def _put_streams(before: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = before


_PARTS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "working directory": (_directory, _enter),
    "environment": (_environment, _put_environment),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)),
    "default timeout of sockets": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "standard output": (lambda: (sys.stdout, sys.stderr), _put_streams),
    "level below which nothing is logged": (lambda: logging.root.manager.disable, logging.disable),
}
