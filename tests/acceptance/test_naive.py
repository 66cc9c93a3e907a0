"""A project without time zones (`USE_TZ = False`): workers compare times of the same clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from tests import servers
from tests.acceptance.conftest import PATIENCE, broker_worker
from tests.acceptance.test_lost_workers import kill_child
from tests.processes import wait_until

if TYPE_CHECKING:
    import httpx

    from tests.acceptance.conftest import Gates, Site, StartSite, StartWorker, Worker
    from tests.servers import MessageBroker

pytestmark = pytest.mark.skipif(servers.DATABASE != "sqlite", reason="the test's own table holds aware times there")


@pytest.fixture
def naive(start_site: StartSite, message_broker: MessageBroker, apart: Site, alone: None) -> Site:
    site = start_site("wsgi", BROKER_URL=message_broker.unattended_url, NAIVE="1")
    site.process.ready()
    return site


@pytest.fixture
def worker(start_worker: StartWorker, naive: Site) -> Worker:
    worker = start_worker(broker_worker, "--concurrency=1", NAIVE="1")
    worker.container.ready()
    return worker


def document(client: httpx.Client, accepted: httpx.Response) -> dict[str, Any]:
    return client.get(accepted.headers["Location"]).json()


def test_the_dispatch_of_a_lost_process_runs_again_at_once(naive: Site, worker: Worker, gates: Gates) -> None:
    gate = gates.new()
    with naive.client() as client:
        accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "bulk"})
        at = datetime.fromisoformat(accepted.json()["accepted_at"])
        assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
        wait_until(lambda: document(client, accepted)["state"] == "running", PATIENCE)
        kill_child(worker)
        gates.open(gate)
        wait_until(lambda: document(client, accepted)["done"], PATIENCE)
        assert document(client, accepted)["attempts"] == 2
    assert "waits until its lease runs out" not in worker.container.logs()


def test_a_terminated_dispatch_is_cancelled(
    naive: Site, worker: Worker, gates: Gates, message_broker: MessageBroker
) -> None:
    gate = gates.new()
    with naive.client() as client:
        accepted = client.post(f"/begun/{gate}/", headers={"X-Queue": "bulk"})
        wait_until(lambda: document(client, accepted)["state"] == "running", PATIENCE)
        with Celery(broker=message_broker.unattended_url, set_as_current=False) as app:
            app.control.revoke(accepted.json()["id"], terminate=True, reply=True, timeout=3, limit=1)
        wait_until(lambda: document(client, accepted)["state"] == "cancelled", PATIENCE)
    gates.open(gate)


def test_the_reaper_handles_waiting_dispatches(naive: Site, worker: Worker, gates: Gates) -> None:
    gate = gates.new()
    with naive.client() as client:
        accepted = [client.post(f"/gate/{gate}/", headers={"X-Queue": "bulk"}) for _ in range(6)]
        wait_until(lambda: document(client, accepted[0])["state"] == "running", PATIENCE)
        wait_until(lambda: client.get(f"{accepted[-1].headers['Location']}?wait=3").json()["state"] == "queued", 10)
        gates.open(gate)
        wait_until(lambda: all(document(client, each)["state"] == "succeeded" for each in accepted), PATIENCE)
    assert "The reaper failed" not in worker.container.logs()
