"""Dispatches that are cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance.conftest import PATIENCE, done, plain_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    import httpx

    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker


def test_a_dispatch_cancelled_before_its_start_never_runs(
    unattended: Site, ledger: Ledger, start_worker: StartWorker
) -> None:
    with unattended.client() as client:
        first, second = client.post("/pay/"), client.post("/pay/")
        cancelled = client.delete(first.headers["Location"])
        assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
        start_worker()
        assert done(client, second)["state"] == "succeeded"
        assert client.get(first.headers["Location"]).json()["state"] == "cancelled"
        assert client.get(first.json()["links"]["response"]).status_code == 410
    assert ledger.executions(first.json()["id"]) == 0


def test_a_started_dispatch_cannot_be_cancelled(client: httpx.Client, gates: Gates) -> None:
    gate = gates.new()
    accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "payment"})
    location = accepted.headers["Location"]
    wait_until(lambda: client.get(location).json()["state"] == "running")
    refused = client.delete(location)
    assert refused.status_code == 409
    assert refused.headers["Content-Type"] == "application/problem+json"
    gates.open(gate)
    assert client.get(location, params={"wait": PATIENCE}).json()["state"] == "succeeded"
    assert client.delete(location).status_code == 409


def test_a_running_dispatch_is_stopped_if_its_queue_allows_it(
    client: httpx.Client, gates: Gates, ledger: Ledger
) -> None:
    gate = gates.new()
    accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "stoppable"})
    location = accepted.headers["Location"]
    wait_until(lambda: client.get(location).json()["state"] == "running")
    stopped = client.delete(location)
    assert (stopped.status_code, stopped.json()["state"]) == (202, "cancelled")
    gates.open(gate)
    after = client.post("/pay/", data={"amount": "1"}, headers={"Prefer": "wait=10"})
    assert after.status_code == 201, "the worker continues"
    assert client.get(location).json()["state"] == "cancelled"
    assert ledger.executions(accepted.json()["id"]) == 0, "the process was stopped before the gate was open"


def test_a_pool_that_cannot_stop_a_task_refuses_to(
    unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    start_worker(plain_worker, "--pool=threads", "--queues=stoppable")
    gate = gates.new()
    with unattended.client() as client:
        location = client.post(f"/gate/{gate}/", headers={"X-Queue": "stoppable"}).headers["Location"]
        wait_until(lambda: client.get(location).json()["state"] == "running")
        assert client.delete(location).status_code == 409
        gates.open(gate)
        assert client.get(location, params={"wait": PATIENCE}).json()["state"] == "succeeded"
