"""The site, its workers and its servers as processes of their own; pytest-celery's nodes drive them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from celery import Celery
from django.db import connections, transaction
from django.utils import timezone
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from broker_django.development.ports import any_port
from broker_django.models import AttemptRecord, DispatchRecord
from tests import servers, vendors
from tests.acceptance.prepare import PASSWORD
from tests.containers import ROOT, Process
from tests.processes import wait_until
from tests.settings import database as database_settings
from tests.site.models import Execution

ALIAS = "acceptance"
PATIENCE = 30
"""Seconds that a test waits for an expected event; also the longest long poll."""
KEPT = 2.0
"""Seconds for which a client keeps an idle connection: servers close theirs after five, which may cross a request."""


class WorkerProcess(Process):
    def worker_name(self) -> str:
        return self.name

    def worker_queue(self) -> str:
        return "payment,realtime,bulk"


class Worker(CeleryTestWorker):
    """A worker on this machine."""

    def hostname(self) -> str:
        return f"{self.worker_name}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class Site:
    """A web server with the test site."""

    url: str
    process: Process

    def client(self, **options: Any) -> httpx.Client:
        """Returns a client with its own cookies, like a new browser."""
        limits = httpx.Limits(keepalive_expiry=KEPT)
        options = {"timeout": PATIENCE + 10, "limits": limits, "trust_env": False, "verify": False, **options}
        return httpx.Client(base_url=self.url, **options)


class Ledger:
    """The tables of the site under test."""

    def dispatch(self, dispatch_id: str) -> DispatchRecord:
        return DispatchRecord.objects.using(ALIAS).get(pk=dispatch_id)

    def dispatches(self, ids: list[str]) -> list[DispatchRecord]:
        """In the order in which they were started."""
        return list(DispatchRecord.objects.using(ALIAS).filter(pk__in=ids).order_by("started_at"))

    def executions(self, dispatch_id: str) -> int:
        """How often the view ran for this dispatch."""
        return Execution.objects.using(ALIAS).filter(dispatch=dispatch_id).count()

    @staticmethod
    def nobody_writing() -> AbstractContextManager[None]:
        """On SQLite, hold the write lock, so that no process is stopped while it holds it."""
        return transaction.atomic(using=ALIAS)

    def forget_what_waits(self, queue: str) -> None:
        """Remove waiting dispatches of other tests, which would count for a limit."""
        waiting = DispatchRecord.objects.using(ALIAS).filter(queue=queue, state="queued")
        waiting.update(state="cancelled", finished_at=timezone.now())

    def forget_all(self) -> None:
        """End the dispatches of other tests, so that no reaper publishes them again."""
        left = DispatchRecord.objects.using(ALIAS).filter(state__in=("queued", "running"))
        left.update(state="cancelled", finished_at=timezone.now(), due_at=None)

    def hand_back_long_ago(self, dispatch_id: str) -> None:
        """Wait until a worker has handed it back, and set that time before any deployment."""
        attempts = AttemptRecord.objects.using(ALIAS).filter(dispatch=dispatch_id)
        wait_until(attempts.exists, PATIENCE)
        attempts.update(ended_at=timezone.now() - timedelta(minutes=20))
        accepted = DispatchRecord.objects.using(ALIAS).filter(pk=dispatch_id)
        accepted.update(accepted_at=timezone.now() - timedelta(minutes=30))


class Gates:
    """Hold views at /gate/NAME/ until the gate is opened."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def new(self) -> str:
        return uuid.uuid4().hex

    def open(self, name: str) -> None:
        (self._directory / name).touch()


# Servers


@pytest.fixture(scope="session")
def message_broker() -> Iterator[servers.MessageBroker]:
    with {**servers.BROKERS, **vendors.BROKERS}[servers.BROKER]() as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_broker(message_broker: servers.MessageBroker) -> servers.MessageBroker:
    if not message_broker.is_redis:
        pytest.skip("the message broker is no Redis")
    return message_broker


@pytest.fixture(scope="session")
def environment(
    message_broker: servers.MessageBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Returns the variables of every process of the site. The database exists."""
    with servers.DATABASES[servers.DATABASE]() as database:
        variables = {
            **database,
            "DJANGO_SETTINGS_MODULE": "tests.acceptance.settings",
            "BROKER_URL": message_broker.url,
            "EAGER": "0",
            "GATES": str(tmp_path_factory.mktemp("gates")),
            "MEDIA": str(tmp_path_factory.mktemp("media")),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        subprocess.run(
            [sys.executable, "-m", "tests.acceptance.prepare"], check=True, cwd=ROOT, env={**os.environ, **variables}
        )
        yield variables


@pytest.fixture
def ledger(environment: dict[str, str], django_db_blocker: Any) -> Iterator[Ledger]:
    connections.settings[ALIAS] = connections.configure_settings({"default": database_settings(environment)})["default"]
    with django_db_blocker.unblock():
        yield Ledger()
        connections[ALIAS].close()
    del connections[ALIAS], connections.settings[ALIAS]


@pytest.fixture
def gates(environment: dict[str, str]) -> Gates:
    return Gates(Path(environment["GATES"]))


# The site's processes

StartSite = Callable[..., Site]
StartWorker = Callable[..., Worker]


GUNICORN = {
    "sync": ["--workers=4", "--preload"],
    "gthread": ["--worker-class=gthread", "--threads=16"],
    "one thread": ["--worker-class=gthread", "--threads=1"],
    "two threads": ["--worker-class=gthread", "--threads=2"],
    "gevent": ["--worker-class=gevent"],
}


def web_server(interface: str, port: int) -> list[str]:
    """The command that serves the site: `asgi`, `wsgi`, or a worker class of gunicorn."""
    if interface == "asgi":
        return [
            sys.executable,
            "-m",
            "uvicorn",
            "tests.site.asgi:application",
            "--port",
            str(port),
            "--lifespan",
            "off",
        ]
    if interface == "wsgi":
        return [sys.executable, "-m", "django", "runserver", f"127.0.0.1:{port}", "--noreload"]
    command = [sys.executable, "-m", "gunicorn", "tests.site.wsgi:application", f"--bind=127.0.0.1:{port}"]
    return [*command, "--no-control-socket", "--access-logfile=-", *GUNICORN[interface]]


def _start_site(interface: str, environment: dict[str, str]) -> Site:
    port = any_port()
    url = f"http://127.0.0.1:{port}"
    server = web_server(interface, port)
    return Site(url, Process(f"web-{interface}", server, environment, lambda: servers.is_healthy(url)))


class Sites(dict[str, Site]):
    """Sites that start when a test first uses them."""

    def __init__(self, start: Callable[[str], Site]) -> None:
        self._start = start

    def __missing__(self, name: str) -> Site:
        site = self[name] = self._start(name)
        site.process.ready()
        return site


@pytest.fixture(scope="session")
def sites(environment: dict[str, str], message_broker: servers.MessageBroker) -> Iterator[Sites]:
    """One under ASGI, one under WSGI, and one whose dispatches no shared worker receives."""

    def start(name: str) -> Site:
        if name == servers.UNATTENDED:
            return _start_site("asgi", {**environment, "BROKER_URL": message_broker.unattended_url})
        return _start_site(name, environment)

    started = Sites(start)
    try:
        yield started
    finally:
        for site in started.values():
            site.process.teardown()


@pytest.fixture(scope="session", params=["asgi", "wsgi"])
def site(request: pytest.FixtureRequest, celery_worker_cluster: CeleryWorkerCluster, sites: dict[str, Site]) -> Site:
    """The site under either interface, with a worker behind it."""
    return sites[request.param]


@pytest.fixture(scope="session")
def asgi_site(celery_worker_cluster: CeleryWorkerCluster, sites: dict[str, Site]) -> Site:
    return sites["asgi"]


def _end(process: Process) -> None:
    """End the process and print its output, which pytest shows for failed tests."""
    print(f"{process.name}:\n{process.logs()}")
    process.teardown()


@pytest.fixture
def start_site(environment: dict[str, str]) -> Iterator[StartSite]:
    """Start one more web server, with variables of its own. The caller waits until it is ready."""
    with contextlib.ExitStack() as started:

        def start(interface: str = "asgi", **variables: str) -> Site:
            site = _start_site(interface, {**environment, **variables})
            started.callback(_end, site.process)
            return site

        yield start


def broker_worker(name: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "django", "broker_worker", "--noreload", f"--hostname={name}@%h"]
    return [*command, *(options or ("--concurrency=2",))]


def plain_worker(name: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "celery", "-A", "workers.celery", "worker", f"--hostname={name}@%h"]
    command += ["-Q", "payment,realtime,bulk,once", "--loglevel=INFO", "--task-events", "--without-mingle"]
    return [*command, *(options or ("--pool=solo",))]


@pytest.fixture
def start_worker(
    environment: dict[str, str], message_broker: servers.MessageBroker, celery_setup_app: Celery
) -> Iterator[StartWorker]:
    """Start a worker for the unattended site, with variables of its own. The caller waits until it is ready."""
    unattended = {**environment, "BROKER_URL": message_broker.unattended_url}
    with contextlib.ExitStack() as started:

        def start(command: Callable[..., list[str]] = plain_worker, *options: str, **variables: str) -> Worker:
            name = f"extra-{uuid.uuid4().hex[:8]}"
            process = WorkerProcess(
                name, command(name, *options), {**unattended, **variables}, " ready.", stop_signal=signal.SIGKILL
            )
            started.callback(_end, process)
            return Worker(process, celery_setup_app)

        yield start


# Fixtures of pytest-celery


@pytest.fixture(scope="session")
def celery_broker_cluster(message_broker: servers.MessageBroker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(CeleryTestBroker(message_broker.process))


@pytest.fixture(scope="session")
def celery_backend_cluster() -> CeleryBackendCluster | None:
    """Results are in the site's database."""
    return None


@pytest.fixture(scope="session")
def celery_setup_app(celery_broker_cluster: CeleryBrokerCluster) -> Celery:
    """An app that only talks to the message broker: it knows none of the site's settings."""
    app = Celery("acceptance", set_as_current=False)
    app.conf.update(broker_url=celery_broker_cluster.config()["host_urls"][0], broker_connection_timeout=5)
    return app


@pytest.fixture(scope="session")
def shared() -> list[WorkerProcess]:
    """The shared worker, once it is started."""
    return []


@pytest.fixture(scope="session")
def celery_worker_cluster(
    environment: dict[str, str], celery_setup_app: Celery, shared: list[WorkerProcess]
) -> Iterator[CeleryWorkerCluster]:
    """The worker that `broker_worker` starts, with two processes on all queues."""
    process = WorkerProcess("shared", broker_worker("shared"), environment, " ready.")
    with servers.serving(process):
        shared.append(process)
        yield CeleryWorkerCluster(Worker(process, celery_setup_app))


@pytest.fixture
def alone(shared: list[WorkerProcess], ledger: Ledger) -> Iterator[None]:
    """Stop the shared worker, because its reaper reads the same ledger and would publish to its own message broker."""
    with ledger.nobody_writing():
        for process in shared:
            os.killpg(process.pid, signal.SIGSTOP)
    yield
    for process in shared:
        os.killpg(process.pid, signal.SIGCONT)


@pytest.fixture
def worker(celery_worker_cluster: CeleryWorkerCluster) -> Worker:
    """The shared worker."""
    return celery_worker_cluster[0]


# A site without the shared worker


@pytest.fixture
def apart(sites: dict[str, Site], message_broker: servers.MessageBroker) -> Iterator[Site]:
    """A site whose dispatches stay on the message broker until the test starts a worker there."""
    yield sites[servers.UNATTENDED]
    _purge(message_broker.unattended_url)


@pytest.fixture
def unattended(apart: Site, alone: None, ledger: Ledger) -> Site:
    """The same, while no other worker's reaper reads the ledger, which contains no other work."""
    ledger.forget_all()
    return apart


def _purge(url: str) -> None:
    if url.startswith("redis"):
        redis.Redis.from_url(url).flushdb()
        return
    with Celery(broker=url, set_as_current=False).connection_for_write() as connection:
        for name in ("payment", "realtime", "bulk"):
            with contextlib.suppress(*connection.channel_errors):
                connection.channel().queue_purge(name)


@pytest.fixture
def client(asgi_site: Site) -> Iterator[httpx.Client]:
    with asgi_site.client() as client:
        yield client


def log_in(client: httpx.Client, username: str = "ada") -> httpx.Client:
    """Returns the client, logged in as this user."""
    client.post("/log-in/", data={"username": username, "password": PASSWORD}).raise_for_status()
    return client


def done(client: httpx.Client, accepted: httpx.Response) -> dict[str, Any]:
    """Returns the status document of an accepted request when it is done."""
    assert accepted.status_code == 202, accepted.text
    document = client.get(accepted.headers["Location"], params={"wait": PATIENCE}).json()
    assert document["done"], document
    return document
