"""The faults, and how each is undone."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil

from chaos.installation import RELEASES, children

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from chaos.installation import Installation, Service


class Fault:
    """A fault. `apply` causes it and returns a description; `undo` is called after `lasts` seconds.

    rest: seconds without a fault afterwards. limit: how often it may occur.
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
    """Kills a worker's main process, one of its children, or all of its processes."""

    lasts = (0.5, 1.5)
    _killed: Service | None = None

    def apply(self) -> str:
        workers = self.installation.workers
        worker = self.random.choice([worker for worker in workers if worker.expected] or workers)
        what = self.random.choice(["main process", "child", "all processes"])
        alive = [process for process in children(worker) if process.is_running()]
        if what == "child" and alive:
            child = self.random.choice(alive)
            worker.record_killed([child.pid])
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
            return f"{worker.name}, a child"
        self._killed = worker
        worker.stop(signal.SIGKILL, group=what == "all processes")
        return f"{worker.name}, {'all processes' if what == 'all processes' else 'its main process'}"

    def undo(self) -> None:
        if self._killed is not None:
            self._killed.start()
        self._killed = None


class BrokerKilled(Fault):
    """Kills the message broker with SIGKILL, and starts it again with the same data."""

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
    """Kill the message broker and all its child processes: RabbitMQ's start script has the server as a child."""
    process = installation.broker.process
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()


class NetworkCut(Fault):
    """Connections to the message broker are reset, and new ones are refused."""

    lasts = (2.0, 5.0)

    def apply(self) -> str:
        self.installation.proxy.cut()
        return "connections refused"

    def undo(self) -> None:
        self.installation.proxy.restore()


class NetworkFrozen(Fault):
    """Nothing passes to or from the message broker, without an error."""

    lasts = (3.0, 6.0)
    _reset = False

    def apply(self) -> str:
        self._reset = not self._reset
        self.installation.proxy.freeze()
        return (
            "nothing passes, then connections are reset" if self._reset else "nothing passes, then everything continues"
        )

    def undo(self) -> None:
        self.installation.proxy.restore(reset=self._reset)


class WebRestarted(Fault):
    """Stops one web process after the other, alternately with SIGTERM and SIGKILL."""

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
    """PostgreSQL is suspended; SQLite's file is locked."""

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


class ReadOnlyWindow(Fault):
    """Every write to the database is refused, but reads work, as on a demoted primary."""

    lasts = (3.0, 8.0)

    def apply(self) -> str:
        path = self.installation.variables.get("DATABASE_PATH")
        if path is None:
            self._configure("on")
        else:
            make_read_only(path)
        return "writes are refused"

    def undo(self) -> None:
        path = self.installation.variables.get("DATABASE_PATH")
        if path is None:
            self._configure("off")
        else:
            make_writable(path)

    def _configure(self, value: str) -> None:
        """Open sessions follow with their next transaction; this session has its own setting."""
        import psycopg

        variables = self.installation.variables
        where = {name: variables[f"POSTGRES_{name.upper()}"] for name in ("host", "port", "user", "password")}
        writes = "-c default_transaction_read_only=off"
        with psycopg.connect(**where, dbname=variables["POSTGRES_DB"], autocommit=True, options=writes) as connection:
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only TO {value}")
            connection.execute("SELECT pg_reload_conf()")


WRITE_VERSION = 18
"""The offset in the header of an SQLite file that says which version may write to it."""
TOO_NEW, OURS = bytes([3]), bytes([2])
"""A version that no SQLite knows yet, and the version of a file with a write-ahead log."""
TRIES = 200


def make_read_only(path: str) -> None:
    """Make every connection to the SQLite file fail its next write with "attempt to write a readonly database".

    Permissions are only checked when a file is opened, and a trigger raises IntegrityError. But SQLite reads the header
    at the start of each transaction, and does not write files of an unknown version: "The SQLite Database File Format",
    section 1.3.3. A connection that has seen this never writes again, like one to a demoted primary.

    The header must not be in the write-ahead log, which would hide the file's own. The update without the header then
    makes every connection read the header again.
    """
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    file = os.open(path, os.O_RDWR)
    try:
        for _ in range(TRIES):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("BEGIN IMMEDIATE")
            if not Path(f"{path}-wal").stat().st_size:
                os.pwrite(file, TOO_NEW, WRITE_VERSION)
                connection.execute("UPDATE chaos_window SET opened = opened + 1")
                connection.execute("COMMIT")
                return
            connection.execute("ROLLBACK")
        raise RuntimeError("the write-ahead log was never empty")
    finally:
        connection.close()
        os.close(file)  # not earlier: that would release the connection's locks on the file


def make_writable(path: str) -> None:
    """Connections that are opened from now on can write again."""
    file = os.open(path, os.O_RDWR)
    os.pwrite(file, OURS, WRITE_VERSION)
    os.close(file)


class Rollout(Fault):
    """Gives the workers and web processes another release, one after another, and then the former again."""

    lasts = (0.5, 1.5)
    _restarted: Service | None = None

    def __init__(self, installation: Installation, random: Random) -> None:
        super().__init__(installation, random)
        mixed = itertools.chain.from_iterable(itertools.zip_longest(installation.workers, installation.webs))
        services = [service for service in mixed if service is not None]
        self._turns = itertools.cycle(itertools.product(reversed(RELEASES), services))
        self._next = next(self._turns)

    def apply(self) -> str:
        release, service = self._next
        if not self.installation.serves_without(service):
            return f"{service.name} has to wait: no other web process serves"
        self._next = next(self._turns)
        self._restarted, service.release = service, release
        if service.expected:
            service.stop(signal.SIGTERM)
        return f"{service.name} gets the {release} release"

    def undo(self) -> None:
        if self._restarted is not None:
            self._restarted.start()


OTHERS: Sequence[type[Fault]] = (BrokerKilled, NetworkCut, NetworkFrozen, WebRestarted, DatabasePaused, ReadOnlyWindow)


class Track:
    """Causes one fault after another. No kind of fault is repeated before all others had their turn."""

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
            self.undo_current()

    def _begin(self) -> None:
        fault = self._draw()
        if fault is None:
            return
        self.done[type(fault).__name__] += 1
        self._say(f"{type(fault).__name__}: {fault.apply()}")
        self._current = fault
        self._next_at = time.monotonic() + self._random.uniform(*fault.lasts)

    def undo_current(self) -> None:
        """Undo the current fault, if there is one."""
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
