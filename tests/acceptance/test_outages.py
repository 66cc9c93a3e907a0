"""Message brokers that are down, and workers that are stopped."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from broker_django.development.ports import any_port
from tests import servers
from tests.acceptance.conftest import broker_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    import httpx

    from tests.acceptance.conftest import Gates, Ledger, Site, StartSite, StartWorker

RABBITMQ = "amqp://guest:guest@127.0.0.1:{port}//"
REDIS = "redis://127.0.0.1:{port}/0"
AT_MOST = 4.0
"""Seconds that a client may be held by a message broker that does not answer."""


def url_of(port: int) -> str:
    return (RABBITMQ if servers.BROKER.endswith("rabbitmq") else REDIS).format(port=port)


def accepted_in_time(client: httpx.Client, ledger: Ledger) -> str:
    before = time.monotonic()
    accepted = client.post("/pay/", data={"amount": "1"}, headers={"Prefer": "wait=20"})
    assert accepted.status_code == 202
    assert time.monotonic() - before < AT_MOST
    assert ledger.dispatch(accepted.json()["id"]).state == "queued"
    status = client.get(accepted.headers["Location"])
    assert status.json()["state"] == "queued"
    return accepted.json()["id"]


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_a_request_is_accepted_while_the_message_broker_is_down(
    alone: None, start_site: StartSite, ledger: Ledger, interface: str
) -> None:
    port = any_port()
    site = start_site(interface, BROKER_URL=url_of(port))
    site.process.ready()
    with site.client() as client:
        accepted_in_time(client, ledger)
        with servers.silent(port):
            accepted_in_time(client, ledger)


def test_a_request_is_accepted_after_the_message_broker_is_killed(
    alone: None, start_site: StartSite, ledger: Ledger
) -> None:
    with servers.valkey() as broker:
        site = start_site(BROKER_URL=broker.url)
        site.process.ready()
        with site.client() as client:
            assert client.post("/pay/").status_code == 202
            broker.process.kill()
            accepted_in_time(client, ledger)


def test_a_request_is_accepted_after_the_message_broker_has_fallen_silent(
    alone: None, start_site: StartSite, ledger: Ledger
) -> None:
    with servers.BROKERS[servers.BROKER]() as broker:
        site = start_site(BROKER_URL=broker.url)
        site.process.ready()
        with site.client() as client:
            assert client.post("/pay/").status_code == 202
            os.killpg(broker.process.pid, signal.SIGSTOP)
            try:
                accepted_in_time(client, ledger)
                accepted_in_time(client, ledger)
            finally:
                os.killpg(broker.process.pid, signal.SIGCONT)


def test_a_poll_ends_in_time_while_the_message_broker_is_down(alone: None, start_site: StartSite) -> None:
    site = start_site(BROKER_URL=url_of(any_port()))
    site.process.ready()
    with site.client() as client:
        location = client.post("/pay/").headers["Location"]
        before = time.monotonic()
        assert client.get(location, params={"wait": 1}).json()["state"] == "queued"
        assert time.monotonic() - before < AT_MOST


def test_a_worker_that_is_stopped_loses_nothing(
    unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    gate = gates.new()
    with unattended.client() as client:
        held = client.post(f"/gate/{gate}/", headers={"X-Queue": "payment"}).json()["id"]
        ids = [client.post("/pay/").json()["id"] for _ in range(40)]
    worker = start_worker(broker_worker)
    wait_until(lambda: any(row.state == "succeeded" for row in ledger.dispatches(ids)))
    worker.container.signal("SIGTERM")
    worker.wait_for_log("Warm shutdown")
    gates.open(gate)
    wait_until(lambda: worker.container.status == "exited")
    assert ledger.dispatch(held).state == "succeeded", "what ran was finished"

    worker.container.start()
    wait_until(lambda: {row.state for row in ledger.dispatches(ids)} == {"succeeded"})
    assert {ledger.executions(dispatch_id) for dispatch_id in [held, *ids]} == {1}
