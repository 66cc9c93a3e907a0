"""A full and an empty ledger, in two databases of a PostgreSQL server that is started for the purpose."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, TypeVar
from unittest.mock import patch

from django.conf import settings
from django.core.management import call_command
from django.db import connections, transaction
from django.test.utils import override_settings
from django.utils import timezone
from django_celery_results.models import TaskResult

from benchmarks.harness import NotInstalledError
from broker_core.dispatches import Dispatch, Outcome, SealedRequest
from broker_core.policies import QueuePolicy
from broker_django.admission import capacity
from broker_django.conf import conf
from broker_django.ledger import ledger, retention
from broker_django.models import ActionRecord, AttemptRecord, DispatchRecord
from broker_django.models.database import outside_of_requests
from tests.servers import find, postgres
from tests.settings import database
from workers.recovery.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.models import Model

Result = TypeVar("Result")

FULL, EMPTY = "filled", "empty"
ROWS = 1_000_000
DAYS = 30
QUEUES = ("payment", "realtime", "bulk")
SEALED = b"s" * 600
POLICY = QueuePolicy()

FINISHED = """
INSERT INTO broker_django_dispatchrecord (
    id, queue, state, method, path, route, reason, "user", credential, trace_id, idempotency_key, fingerprint,
    attempts, attempts_before, worker, accepted_at, published_at, started_at, finished_at, expires_at, due_at,
    response_status, response_type, response_size, error, kept_response, sealed, sealed_file)
SELECT gen_random_uuid(), queue, state, 'POST', '/orders/' || number || '/', '/orders/<int:pk>/', 'rule 1',
    (number %% 5000)::text, '', '', CASE WHEN number %% 10 = 0 THEN encode(sha256(number::text::bytea), 'hex') END, '',
    CASE WHEN number %% 20 = 0 THEN 2 ELSE 1 END, 0, 'celery@host', at, at, at + interval '1 s', at + interval '2 s',
    CASE WHEN number %% 4 = 0 THEN at + interval '1 h' END,
    CASE WHEN state = 'succeeded' AND at > now() - interval '23 h' THEN at + interval '1 day' END,
    CASE state WHEN 'succeeded' THEN 200 WHEN 'failed' THEN 503 END, 'application/json', 180,
    CASE state WHEN 'failed' THEN 'the view answered 503' ELSE '' END, NULL,
    CASE state WHEN 'succeeded' THEN ''::bytea ELSE convert_to(repeat('s', 600), 'UTF8') END, ''
FROM (
    SELECT number, now() - number * interval '1 day' * %(days)s / %(rows)s AS at,
        (ARRAY['payment', 'realtime', 'bulk'])[1 + number %% 3] AS queue,
        CASE WHEN number %% 100 < 94 THEN 'succeeded' WHEN number %% 100 < 97 THEN 'failed'
             WHEN number %% 100 < 99 THEN 'cancelled' ELSE 'expired' END AS state
    FROM generate_series(1, %(rows)s) AS number
) AS dispatch
"""
ENDED_ATTEMPTS = """
INSERT INTO broker_django_attemptrecord (dispatch_id, number, worker, started_at, ended_at, response_status, error)
SELECT id, 1, worker, started_at, finished_at, 503, 'the view answered 503'
FROM broker_django_dispatchrecord WHERE attempts > 1
"""
RESULTS = """
INSERT INTO django_celery_results_taskresult (
    task_id, status, content_type, content_encoding, result, date_created, date_done, meta)
SELECT id::text, 'SUCCESS', 'application/json', 'utf-8', repeat('r', 400), accepted_at, finished_at, '{}'
FROM broker_django_dispatchrecord WHERE state = 'succeeded' AND right(id::text, 1) < '8'
"""
BACKLOG = """
INSERT INTO broker_django_dispatchrecord (
    id, queue, state, method, path, route, reason, "user", credential, trace_id, fingerprint, attempts, attempts_before,
    worker, accepted_at, published_at, expires_at, response_type, error, sealed, sealed_file)
SELECT gen_random_uuid(), 'bulk', 'queued', 'POST', '/reports/', '/reports/', 'rule 1', '', '', '', '', 0, 0, '',
    at, at, at + interval '1 day', '', '', convert_to(repeat('s', 600), 'UTF8'), ''
FROM (SELECT now() - number * interval '36 ms' AS at FROM generate_series(1, %(rows)s) AS number) AS dispatch
"""


class ChosenDatabase:
    """A database router that sends the ledger to one database or the other."""

    alias = EMPTY

    def db_for_read(self, model: type[Model], **_: Any) -> str | None:
        return self.alias if model in {DispatchRecord, AttemptRecord, ActionRecord, TaskResult} else None

    db_for_write = db_for_read

    def choose(self, alias: str) -> None:
        if self.alias != alias:
            self.alias = alias
            outside_of_requests.cache_clear()  # a project's routers are asked once per process

    def run(self, alias: str, use: Callable[[], Result]) -> Result:
        self.choose(alias)
        return use()


@contextlib.contextmanager
def ledgers(rows: int = ROWS) -> Iterator[ChosenDatabase]:
    """Creates both ledgers; yields the router. Raises NotInstalledError if PostgreSQL is not installed."""
    if find("postgres") is None:
        raise NotInstalledError("PostgreSQL is not installed")
    chosen = ChosenDatabase()
    with postgres() as server, override_settings(DATABASE_ROUTERS=[chosen]):
        own = {alias: {**database(server), "NAME": alias} for alias in (FULL, EMPTY)}
        every = {**settings.DATABASES, "server": database(server), **own}
        connections.settings.update(connections.configure_settings(every))
        try:
            for alias in own:
                _execute("server", f"CREATE DATABASE {alias}")
            for alias in own:
                call_command("migrate", database=alias, verbosity=0)
            for statement in (FINISHED, ENDED_ATTEMPTS, RESULTS):
                _execute(FULL, statement, rows=rows, days=DAYS)
            _execute(FULL, "VACUUM ANALYZE")
            yield chosen
        finally:
            for alias in ("server", *own):
                connections[alias].close()
                del connections[alias]


def add_backlog(rows: int) -> None:
    _execute(FULL, BACKLOG, rows=rows)
    _execute(FULL, "VACUUM ANALYZE")


def _execute(alias: str, statement: str, **parameters: int) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, parameters or None)


def run_one() -> None:
    """Runs the ledger's transitions for one dispatch."""
    now = timezone.now()
    dispatch = Dispatch(
        id=uuid.uuid4(),
        queue="payment",
        accepted_at=now,
        method="POST",
        path="/pay/",
        route="/pay/",
        reason="rule 1",
        published_at=now,
        expires_at=now + timedelta(hours=1),
    )
    ledger.accept(SealedRequest(dispatch, SEALED))
    attempt = ledger.claim(dispatch.id, POLICY, "celery@host")
    ledger.conclude(dispatch.id, attempt, POLICY, Outcome(200, "application/json", 180))


def slowest_pass(passes: int = 20) -> float:
    """Returns the seconds of the slowest reaper pass.

    The clock advances 10 s per pass, so that some passes check all.
    """
    clock = timezone.now()
    seconds = []
    reaper = Reaper(lambda: clock)
    for _ in range(passes):
        started = time.perf_counter()
        with patch("workers.recovery.reaper.waiting_messages", return_value=1):  # so that nothing counts as lost
            for _step in reaper.run_pass():
                pass
        seconds.append(time.perf_counter() - started)
        clock += timedelta(seconds=10)
    return max(seconds)


def seconds_to_measure() -> float:
    """Returns how long it takes to measure the depth of the queues, for backpressure."""
    started = time.perf_counter()
    for queue, policy in conf.queues.items():
        capacity.measure(queue, policy, timezone.now())
    return time.perf_counter() - started


def sequential_scans() -> int:
    """Returns how often PostgreSQL has scanned the whole full table."""
    with connections[FULL].cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'broker_django_dispatchrecord'")
        return int(cursor.fetchone()[0])


class LedgerUser(threading.Thread):
    """Uses the ledger all the time, on its own connection, and records how many seconds each use takes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        self._over = threading.Event()

    def run(self) -> None:
        run_one()
        while not self._over.is_set():
            for use in (run_one, self._read):
                started = time.perf_counter()
                use()
                self.seconds.append(time.perf_counter() - started)
        connections.close_all()

    def _read(self) -> None:
        """Read the oldest failed dispatches, which are about to be deleted."""
        list(DispatchRecord.objects.filter(state="failed", queue="bulk").order_by("accepted_at")[:20])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@contextlib.contextmanager
def timed_chunks() -> Iterator[list[float]]:
    """Yields a list of how many seconds each housekeeping transaction was open."""
    seconds: list[float] = []

    @contextlib.contextmanager
    def atomic(**options: Any) -> Iterator[None]:
        started = time.perf_counter()
        with transaction.atomic(**options):
            yield
        seconds.append(time.perf_counter() - started)

    with patch.object(retention, "transaction", SimpleNamespace(atomic=atomic)):
        yield seconds
