"""Runs the site, its workers and its servers as processes, with a proxy in front of the message broker."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import psutil

from broker_django.development.ports import any_port
from chaos import journal
from chaos.network import Proxy
from tests import servers
from tests.containers import ROOT, Process

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PROGRAMS = {"redis": "redis-server", "rabbitmq": "rabbitmq-server", "valkey": "valkey", "postgres": "postgres"}
"""The programs that must be installed; SQLite needs none."""
RELEASES = ("old", "new")
"""The releases of the site, in order."""
ENDS_WITHIN = 5.0
"""Seconds after which a process that was asked to end is killed."""
ORPHANS_LIVE = 5.0
"""Seconds for which child processes outlive a killed process, until a supervisor would remove them."""


class Service:
    """A process of the site under a supervisor: it can be killed, and is started again. Its log is continued."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.name = process.name
        self.expected = True
        """Whether it should be running."""
        self.ended: list[int | None] = []
        """The exit statuses with which it ended by itself."""
        self.killed: dict[int, float] = {}
        """Its processes that were killed on purpose, and when."""
        self._start_by: float | None = None
        self._orphaned: list[tuple[float, int, list[psutil.Process]]] = []

    @property
    def running(self) -> bool:
        return self.process.status == "running"

    @property
    def release(self) -> str:
        """The release of the code that it runs, or will run after the next start."""
        return self.process.env["CHAOS_RELEASE"]

    @release.setter
    def release(self, release: str) -> None:
        self.process.env["CHAOS_RELEASE"] = release

    def stop(self, signal_: signal.Signals, *, group: bool = False) -> None:
        """Send a signal that ends it, alone or with all its child processes. It stays down until `start`."""
        self.expected, self._start_by = False, None
        pid, started = self.process.pid, children(self, recursive=True)
        if signal_ is signal.SIGKILL or group:
            self.record_killed([pid, *(process.pid for process in started)])
        if group:
            _kill_group(pid)
        else:
            self._orphaned.append((time.monotonic() + ORPHANS_LIVE, pid, started))
            self.process.signal(signal_)

    def record_killed(self, pids: Iterable[int]) -> None:
        now = time.time()
        self.killed = {**dict.fromkeys(pids, now), **self.killed}

    def start(self) -> None:
        """Start it again once it has ended. `supervise` does that."""
        if not self.expected and self._start_by is None:
            self._start_by = time.monotonic() + ENDS_WITHIN
        self.supervise()

    @property
    def up(self) -> bool:
        return self.expected and self.running

    def supervise(self) -> bool:
        """Start it if it has ended, and kill orphaned child processes. Returns whether it has ended by itself."""
        now = time.monotonic()
        if self._start_by is not None:
            self._start_if_down(late=now >= self._start_by)
        for _, pid, started in [orphan for orphan in self._orphaned if orphan[0] <= now]:
            self.record_killed(process.pid for process in started if process.is_running())
            _kill_group(pid)
        self._orphaned = [orphan for orphan in self._orphaned if orphan[0] > now]
        if not self.expected or self.running:
            return False
        self.ended.append(self.process._popen.returncode)
        self._start_if_down(late=False)
        return True

    def _start_if_down(self, *, late: bool) -> None:
        if self.running and not late:
            return
        if self.running:
            self.record_killed(process.pid for process in children(self, recursive=True))
            self.process.kill()
        self.process.start()
        self.expected, self._start_by = True, None

    def end(self) -> None:
        for _, pid, _ in self._orphaned:
            _kill_group(pid)
        self.process.teardown()


def children(service: Service, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        return psutil.Process(service.process.pid).children(recursive)
    except psutil.NoSuchProcess:
        return []


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class Installation:
    """Everything that runs, and that faults affect."""

    def __init__(
        self,
        broker: servers.MessageBroker,
        proxy: Proxy,
        variables: dict[str, str],
        webs: int,
        workers: int,
        pool: str = "prefork",
    ) -> None:
        self.broker, self.proxy, self.variables, self.pool = broker, proxy, variables, pool
        self.urls: list[str] = []
        self.webs = [self._web(number) for number in range(webs)]
        self.workers = [self._worker(number) for number in range(workers)]

    @property
    def services(self) -> list[Service]:
        return [*self.webs, *self.workers]

    @property
    def vendor(self) -> str:
        """The database vendor, as Django names it."""
        return "sqlite" if "DATABASE_PATH" in self.variables else "postgresql"

    @property
    def killed(self) -> dict[int, float]:
        """The processes that were killed on purpose, and when."""
        return {pid: at for service in self.services for pid, at in service.killed.items()}

    def read_journal(self) -> list[journal.Line]:
        return journal.read(Path(self.variables[journal.VARIABLE]))

    def serves_without(self, service: Service) -> bool:
        """Whether clients can reach another web process while this service is down. True for workers."""
        others = [url for web, url in zip(self.webs, self.urls, strict=True) if web is not service]
        return service not in self.webs or any(servers.listens(urlsplit(url).port or 0) for url in others)

    def is_up(self) -> bool:
        for service in self.services:
            service.supervise()
        return all(service.up for service in self.services)

    def deploy(self, release: str) -> None:
        """Make everything run this release."""
        others = [service for service in self.services if service.release != release]
        for service in others:
            service.release = release
            service.stop(signal.SIGTERM)
        for service in others:
            service.start()

    def _web(self, number: int) -> Service:
        """Alternately under ASGI and WSGI."""
        port = any_port()
        url = f"http://127.0.0.1:{port}"
        asgi = [sys.executable, "-m", "uvicorn", "tests.site.asgi:application", "--port", str(port)]
        asgi += ["--lifespan", "off", "--no-access-log", "--timeout-graceful-shutdown", "5"]
        wsgi = [sys.executable, "-m", "django", "runserver", f"127.0.0.1:{port}", "--noreload", "-v", "0"]
        self.urls.append(url)
        return Service(
            Process(f"web-{number}", wsgi if number % 2 else asgi, self.variables, lambda: servers.is_healthy(url))
        )

    def _worker(self, number: int) -> Service:
        name = f"worker-{number}"
        command = [sys.executable, "-m", "django", "broker_worker", "--noreload", "--concurrency=2"]
        command.append(f"--pool={self.pool}")
        return Service(Process(name, [*command, f"--hostname={name}@%h"], self.variables, " ready."))

    def ready(self) -> Self:
        for service in self.services:
            service.process.ready()
        return self

    def logs(self) -> dict[str, list[str]]:
        return {service.name: service.process.logs().splitlines() for service in self.services}

    def databases(self) -> list[psutil.Process]:
        """Returns the processes of PostgreSQL, the first one first; none for SQLite."""
        family = psutil.Process().children(recursive=True)
        return [process for process in family if _name(process) in {"postgres", "postmaster"}]

    def keep_logs(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name, lines in self.logs().items():
            (directory / f"{name}.log").write_text("\n".join(lines) + "\n")

    def end(self) -> None:
        for service in self.services:
            service.end()


def missing(broker: str, database: str) -> list[str]:
    """Returns the programs that are needed and not installed."""
    needed = [PROGRAMS[name] for name in (broker, database) if name in PROGRAMS]
    return [program for program in needed if servers.find(program) is None]


@contextlib.contextmanager
def install(broker: str, database: str, *, webs: int, workers: int, pool: str = "prefork") -> Iterator[Installation]:
    """Start everything, and use its database in this process too. Everything is stopped at the end of the context."""
    with (
        servers.BROKERS[broker]() as server,
        servers.DATABASES[database]() as where,
        _network(server) as proxy,
        tempfile.NamedTemporaryFile(prefix="chaos-journal-") as notes,
    ):
        port = urlsplit(server.url).port
        variables = {
            **where,
            "DJANGO_SETTINGS_MODULE": "chaos.site.settings",
            journal.VARIABLE: notes.name,
            "CHAOS_RELEASE": RELEASES[0],
            "BROKER_URL": server.url.replace(f":{port}", f":{proxy.port}"),
            "EAGER": "0",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        os.environ.update(variables)
        _prepare()
        installation = Installation(server, proxy, variables, webs, workers, pool)
        try:
            yield installation.ready()
        finally:
            _disconnect()
            installation.end()


@contextlib.contextmanager
def _network(server: servers.MessageBroker) -> Iterator[Proxy]:
    port = urlsplit(server.url).port
    assert port is not None
    with contextlib.closing(Proxy(port)) as proxy:
        yield proxy


def _prepare() -> None:
    import django

    django.setup()
    from chaos.database import prepare

    prepare()
    _disconnect()


def _disconnect() -> None:
    from django.db import connections

    connections.close_all()


def _name(process: psutil.Process) -> str:
    """Returns its name, or an empty text if it has ended."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
