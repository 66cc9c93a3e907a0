"""What goes wrong, and how it is put right."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sqlite3
import time
from typing import TYPE_CHECKING, ClassVar

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from tests.chaos.installation import Installation, Service


class Fault:
    """`apply` does it and says what it did; `undo` puts it right after `lasts` seconds. `rest` is the quiet afterwards,
    in seconds; `limit` how often it may be done.
    """

    lasts: ClassVar[tuple[float, float]]
    rest: float = 0.0
    limit: int | None = None

    def __init__(self, installation: Installation, random: Random) -> None:
        self.installation, self.random = installation, random

    def apply(self) -> str:
        raise NotImplementedError

    def undo(self) -> None:
        raise NotImplementedError


class WorkerKilled(Fault):
    """A worker's main process, one of its children, or all of them at once."""

    lasts = (0.5, 1.5)
    _killed: Service | None = None

    def apply(self) -> str:
        worker = self.random.choice(self.installation.workers)
        what = self.random.choice(["main process", "child", "all processes"])
        children = [process for process in _children(worker) if process.is_running()]
        if what == "child" and children:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.random.choice(children).kill()
            return f"{worker.name}, a child"
        self._killed = worker
        worker.stop(signal.SIGKILL, group=what == "all processes")
        return f"{worker.name}, {'all processes' if what == 'all processes' else 'its main process'}"

    def undo(self) -> None:
        if self._killed is not None:
            self._killed.start()
        self._killed = None


def _children(service: Service) -> list[psutil.Process]:
    try:
        return psutil.Process(service.process.pid).children()
    except psutil.NoSuchProcess:
        return []


class BrokerKilled(Fault):
    """SIGKILL of the message broker, and a start on the same data."""

    lasts = (1.0, 4.0)

    def __init__(self, installation: Installation, random: Random) -> None:
        super().__init__(installation, random)
        if not installation.broker.is_redis:
            self.limit, self.rest = 2, 15.0

    def apply(self) -> str:
        kill_server(self.installation)
        return self.installation.broker.process.name

    def undo(self) -> None:
        self.installation.broker.process.start()


def kill_server(installation: Installation) -> None:
    """SIGKILL, with all that it started: RabbitMQ's script has the server as a child."""
    process = installation.broker.process
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()


class NetworkCut(Fault):
    """Connections to the message broker break off, and new ones are refused."""

    lasts = (2.0, 5.0)

    def apply(self) -> str:
        self.installation.proxy.cut()
        return "connections refused"

    def undo(self) -> None:
        self.installation.proxy.restore()


class NetworkHeld(Fault):
    """Nothing passes to the message broker or back, and nobody is told."""

    lasts = (3.0, 6.0)
    _reset = False

    def apply(self) -> str:
        self._reset = not self._reset
        self.installation.proxy.hold()
        return "nothing passes, then connections break off" if self._reset else "nothing passes, then all goes on"

    def undo(self) -> None:
        self.installation.proxy.restore(reset=self._reset)


class WebRestarted(Fault):
    """SIGTERM and SIGKILL by turns, of one web process and then of another."""

    lasts = (0.5, 1.5)

    def __init__(self, installation: Installation, random: Random) -> None:
        super().__init__(installation, random)
        signals = (signal.SIGTERM, signal.SIGKILL)
        self._turns = itertools.cycle(itertools.product(signals, installation.webs))
        self._stopped: Service | None = None

    def apply(self) -> str:
        signal_, self._stopped = next(self._turns)
        self._stopped.stop(signal_)
        return f"{self._stopped.name}, {signal_.name}"

    def undo(self) -> None:
        assert self._stopped is not None
        self._stopped.start()


class DatabasePaused(Fault):
    """PostgreSQL stands still; of SQLite's file somebody else holds the lock."""

    lasts = (2.5, 3.5)
    _paused: Sequence[psutil.Process] = ()
    _holder: sqlite3.Connection | None = None

    def apply(self) -> str:
        path = self.installation.variables.get("DATABASE_PATH")
        if path is None:
            self._paused = self.installation.databases()
            _signal_all(self._paused, psutil.Process.suspend)
            return f"SIGSTOP of {len(self._paused)} processes"
        self._holder = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._holder.execute("BEGIN EXCLUSIVE")
        return "locked"

    def undo(self) -> None:
        _signal_all(self._paused, psutil.Process.resume)
        if self._holder is not None:
            self._holder.execute("ROLLBACK")
            self._holder.close()
            self._holder = None


def _signal_all(processes: Sequence[psutil.Process], send: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            send(process)


OTHERS: Sequence[type[Fault]] = (BrokerKilled, NetworkCut, NetworkHeld, WebRestarted, DatabasePaused)


class Track:
    """One fault after another, each put right before the next. All kinds have had their turn before one has another."""

    def __init__(
        self, faults: Sequence[Fault], pause: tuple[float, float], random: Random, say: Callable[[str], None]
    ) -> None:
        self.done = dict.fromkeys((type(fault).__name__ for fault in faults), 0)
        self._faults, self._pause, self._random, self._say = faults, pause, random, say
        self._left: list[Fault] = []
        self._current: Fault | None = None
        self._next_at = time.monotonic() + random.uniform(*pause)

    def tick(self) -> None:
        if time.monotonic() < self._next_at:
            return
        if self._current is None:
            self._begin()
        else:
            self.put_right()

    def _begin(self) -> None:
        fault = self._draw()
        if fault is None:
            return
        self.done[type(fault).__name__] += 1
        self._say(f"{type(fault).__name__}: {fault.apply()}")
        self._current = fault
        self._next_at = time.monotonic() + self._random.uniform(*fault.lasts)

    def put_right(self) -> None:
        """Undo what is being done, if anything is."""
        if self._current is None:
            return
        fault, self._current = self._current, None
        fault.undo()
        self._next_at = time.monotonic() + fault.rest + self._random.uniform(*self._pause)

    def _draw(self) -> Fault | None:
        if not self._left:
            self._left = [f for f in self._faults if f.limit is None or self.done[type(f).__name__] < f.limit]
            self._random.shuffle(self._left)
        return self._left.pop() if self._left else None
