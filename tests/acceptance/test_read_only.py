"""The database answers but refuses writes for a while, as a demoted primary does."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from django.db import connections

from tests import servers
from tests.acceptance.conftest import ALIAS, PATIENCE, broker_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker

pytestmark = pytest.mark.skipif(servers.DATABASE != "postgres", reason="the database cannot be made read-only")


def _say(*statements: str) -> None:
    with connections[ALIAS].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _said_to_new_connections(statement: str) -> str:
    """The server reads its settings some time after the signal, and its processes read them later still."""
    fresh = connections[ALIAS].copy()
    try:
        with fresh.cursor() as cursor:
            cursor.execute(statement)
            return str(cursor.fetchone()[0])
    finally:
        fresh.close()


@contextlib.contextmanager
def read_only() -> Iterator[None]:
    """Make the database read-only for other sessions, by the server's setting for new transactions."""
    _say(
        "SET default_transaction_read_only TO off",
        "ALTER SYSTEM SET default_transaction_read_only TO on",
        "SELECT pg_reload_conf()",
    )
    wait_until(lambda: _said_to_new_connections("SHOW default_transaction_read_only") == "on")
    try:
        yield
    finally:
        _say("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


def accept(site: Site, path: str, queue: str = "once") -> str:
    with site.client() as client:
        return client.post(path, headers={"X-Queue": queue, "Prefer": "respond-async"}).json()["id"]


def refused(worker: object) -> int:
    return worker.container.logs().count("The ledger does not answer")


@pytest.mark.parametrize("backend", ["", "django-db"])
@pytest.mark.parametrize("path", ["/begun/{}/", "/brief/{}/"])
def test_the_outcome_of_a_view_that_ended_during_the_outage_is_recorded(
    unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker, path: str, backend: str
) -> None:
    worker = start_worker(broker_worker, "--concurrency=1", **({"RESULT_BACKEND": backend} if backend else {}))
    gate = gates.new()
    dispatch_id = accept(unattended, path.format(gate))
    wait_until(lambda: ledger.executions(dispatch_id), PATIENCE)
    with read_only():
        gates.open(gate)
        wait_until(lambda: refused(worker), PATIENCE)
        if path.startswith("/brief/"):  # the task is over before its hard limit of 11 seconds; a thread continues
            wait_until(lambda: "its outcome cannot be recorded yet" in worker.container.logs(), PATIENCE)
            ends = time.monotonic() + 5
            wait_until(lambda: time.monotonic() > ends)
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "succeeded", PATIENCE)
    record = ledger.dispatch(dispatch_id)
    assert (record.attempts, ledger.executions(dispatch_id), record.response_status) == (1, 1, 200)


def test_a_dispatch_that_could_not_be_claimed_runs_once_afterwards(
    unattended: Site, ledger: Ledger, start_worker: StartWorker
) -> None:
    accepted = [accept(unattended, "/note/x/") for _ in range(3)]
    with read_only():
        worker = start_worker(broker_worker, "--concurrency=2")
        wait_until(lambda: refused(worker) > 3, PATIENCE)
    for dispatch_id in accepted:
        wait_until(lambda id_=dispatch_id: ledger.dispatch(id_).state == "succeeded", PATIENCE)
        assert (ledger.dispatch(dispatch_id).attempts, ledger.executions(dispatch_id)) == (1, 1)
