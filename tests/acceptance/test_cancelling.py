"""Dispatches that nobody wants any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance.conftest import PATIENCE, done
from tests.processes import wait_until

if TYPE_CHECKING:
    import httpx

    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker


def test_what_was_cancelled_in_time_never_runs(unattended: Site, ledger: Ledger, start_worker: StartWorker) -> None:
    with unattended.client() as client:
        first, second = client.post("/pay/"), client.post("/pay/")
        cancelled = client.delete(first.headers["Location"])
        assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
        start_worker()
        assert done(client, second)["state"] == "succeeded"
        assert client.get(first.headers["Location"]).json()["state"] == "cancelled"
        assert client.get(first.json()["links"]["response"]).status_code == 410
    assert ledger.executions(first.json()["id"]) == 0


def test_what_runs_or_ran_cannot_be_cancelled(client: httpx.Client, gates: Gates) -> None:
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
