"""Another session has locked a row of the ledger."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.db import connections, transaction
from django.utils import timezone

from broker_django.models import DispatchRecord
from tests import servers
from tests.acceptance.conftest import ALIAS, PATIENCE, _purge, broker_worker, plain_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker

pytestmark = pytest.mark.skipif(servers.DATABASE == "sqlite", reason="SQLite has no locks of rows")

ON_POSTGRESQL = pytest.mark.skipif(servers.DATABASE != "postgres", reason="Django has a pool for PostgreSQL only")


@contextlib.contextmanager
def locked(dispatch_id: str) -> Iterator[None]:
    with transaction.atomic(using=ALIAS):
        assert DispatchRecord.objects.using(ALIAS).select_for_update().get(pk=dispatch_id)
        yield


def accept(site: Site, path: str) -> str:
    with site.client() as client:
        return client.post(path, headers={"X-Queue": "bulk", "Prefer": "respond-async"}).json()["id"]


@pytest.mark.parametrize(
    "variables", [{}, pytest.param({"DATABASE_POOL": "4"}, marks=ON_POSTGRESQL)], ids=["connections", "pool"]
)
def test_a_locked_row_does_not_block_others(
    unattended: Site,
    ledger: Ledger,
    start_worker: StartWorker,
    message_broker: servers.MessageBroker,
    variables: dict[str, str],
) -> None:
    first, *others = [accept(unattended, "/note/x/") for _ in range(12)]  # in any order
    rows = DispatchRecord.objects.using(ALIAS).filter(pk__in=[first, *others])
    rows.update(due_at=timezone.now(), published_at=None)
    rows.filter(pk=first).update(due_at=timezone.now() - timedelta(hours=1))
    connections[ALIAS].close()
    _purge(message_broker.unattended_url)
    with locked(first):
        start_worker(broker_worker, "--concurrency=2", **variables)  # one of them may wait to claim the first
        wait_until(lambda: rows.filter(state="succeeded").count() == len(others), PATIENCE)
    wait_until(lambda: ledger.dispatch(first).state == "succeeded", PATIENCE)
    assert ledger.executions(first) == 1


def test_a_lease_is_renewed_though_the_row_of_another_is_locked(
    unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    worker = start_worker(plain_worker, "--pool=threads", "--concurrency=2")
    gate = gates.new()
    one, other = (accept(unattended, f"/begun/{gate}/") for _ in range(2))
    wait_until(lambda: ledger.executions(one) and ledger.executions(other), PATIENCE)
    with locked(one):
        until = ledger.dispatch(other).due_at
        wait_until(lambda: ledger.dispatch(other).due_at > until, PATIENCE)
    gates.open(gate)
    for dispatch_id in (one, other):
        wait_until(lambda id_=dispatch_id: ledger.dispatch(id_).state == "succeeded", PATIENCE)
        assert (ledger.executions(dispatch_id), ledger.dispatch(dispatch_id).attempts) == (1, 1)
    assert worker.container.status == "running"
