"""An operator revokes and terminates tasks in Flower or with Celery's remote control."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from celery import Celery

from broker_django.development.ports import any_port
from tests.acceptance.conftest import PATIENCE, broker_worker, done, plain_worker
from tests.containers import Process
from tests.processes import wait_until
from tests.servers import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker
    from tests.servers import MessageBroker

REPUBLISHED_BY_THEN = 9
"""Seconds after which a message that was lost would have been published again."""


@pytest.fixture
def operator(message_broker: MessageBroker) -> Celery:
    """Returns an app that only knows the message broker."""
    return Celery("operator", broker=message_broker.unattended_url, set_as_current=False)


@pytest.fixture
def client(unattended: Site) -> Iterator[httpx.Client]:
    with unattended.client() as client:
        yield client


def listening(operator: Celery, workers: int = 1) -> None:
    """Wait until the workers read broadcasts, which begins only after they are ready."""
    wait_until(lambda: len(operator.control.ping(timeout=0.5)) == workers)


def begin(client: httpx.Client, gate: str, queue: str = "payment") -> httpx.Response:
    """Returns a dispatch whose view has begun and waits at the gate."""
    accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": queue})
    wait_until(lambda: state(client, accepted) == "running")
    return accepted


def state(client: httpx.Client, accepted: httpx.Response) -> str:
    return str(client.get(accepted.headers["Location"]).json()["state"])


def id_of(accepted: httpx.Response) -> str:
    return str(accepted.json()["id"])


def woken(client: httpx.Client, accepted: httpx.Response, act: Callable[[], Any]) -> dict[str, Any]:
    """Returns the result of a long poll that began before."""
    documents: list[dict[str, Any]] = []

    def poll() -> None:
        documents.append(client.get(accepted.headers["Location"], params={"wait": PATIENCE}).json())

    poller = threading.Thread(target=poll)
    poller.start()
    act()
    poller.join(PATIENCE / 2)
    assert documents, "the poll was not woken"
    return documents[0]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_waiting_dispatch_is_cancelled_at_once_for_good(
    pool: str, client: httpx.Client, gates: Gates, ledger: Ledger, start_worker: StartWorker, operator: Celery
) -> None:
    start_worker(broker_worker, f"--pool={pool}", "--concurrency=1").container.ready()
    listening(operator)
    gate = gates.new()
    first = begin(client, gate)
    second = client.post("/note/second/", headers={"X-Queue": "payment"})
    document = woken(client, second, lambda: operator.control.revoke(id_of(second)))
    assert (document["state"], document["done"]) == ("cancelled", True)
    gates.open(gate)
    assert done(client, first)["state"] == "succeeded"
    later = time.monotonic() + REPUBLISHED_BY_THEN
    wait_until(lambda: time.monotonic() > later)
    assert state(client, second) == "cancelled"
    assert ledger.executions(id_of(second)) == 0


def test_terminate_stops_a_dispatch_of_any_queue(
    client: httpx.Client, gates: Gates, ledger: Ledger, start_worker: StartWorker, operator: Celery
) -> None:
    start_worker(broker_worker, "--concurrency=1").container.ready()
    listening(operator)
    gate = gates.new()
    accepted = begin(client, gate)
    terminate = lambda: operator.control.revoke(id_of(accepted), terminate=True)  # noqa: E731
    assert woken(client, accepted, terminate)["state"] == "cancelled"
    gates.open(gate)
    after = client.post("/note/after/", headers={"X-Queue": "payment", "Prefer": f"wait={PATIENCE}"})
    assert after.status_code == 200, "the worker continues"
    later = time.monotonic() + REPUBLISHED_BY_THEN
    wait_until(lambda: time.monotonic() > later)
    record = ledger.dispatch(id_of(accepted))
    assert (record.state, record.attempts, record.response_status) == ("cancelled", 1, None)
    assert ledger.executions(id_of(accepted)) == 0


def test_kill_leaves_it_cancelled_too(
    client: httpx.Client, gates: Gates, ledger: Ledger, start_worker: StartWorker, operator: Celery
) -> None:
    start_worker(broker_worker, "--concurrency=1").container.ready()
    listening(operator)
    gate = gates.new()
    accepted = begin(client, gate, "once")
    operator.control.terminate(id_of(accepted), signal="SIGKILL")
    assert done(client, accepted)["state"] == "cancelled"
    gates.open(gate)
    after = client.post("/note/after/", headers={"X-Queue": "payment", "Prefer": f"wait={PATIENCE}"})
    assert after.status_code == 200
    assert state(client, accepted) == "cancelled"


def test_a_pool_that_cannot_stop_a_task_lets_it_end(
    client: httpx.Client, gates: Gates, start_worker: StartWorker, operator: Celery
) -> None:
    """The other worker does not change its response either."""
    for _each in range(2):
        start_worker(plain_worker, "--pool=threads", "--concurrency=1").container.ready()
    listening(operator, workers=2)
    gate = gates.new()
    accepted = begin(client, gate)
    (replies,) = [operator.control.revoke(id_of(accepted), terminate=True, reply=True, timeout=5, limit=2)]
    assert len(replies) == 2
    assert any("error" in answer for reply in replies for answer in reply.values()), replies
    gates.open(gate)
    document = done(client, accepted)
    assert document["state"] == "succeeded"
    assert client.get(document["links"]["response"]).text == gate


def test_a_dispatch_that_waits_for_a_retry_is_cancelled(
    client: httpx.Client, ledger: Ledger, start_worker: StartWorker, operator: Celery
) -> None:
    start_worker(broker_worker, "--concurrency=1").container.ready()
    listening(operator)
    accepted = client.post("/later/", headers={"X-Queue": "bulk"})
    wait_until(lambda: ledger.executions(id_of(accepted)) == 1 and state(client, accepted) == "queued")
    assert woken(client, accepted, lambda: operator.control.revoke([id_of(accepted), "no-id"]))["state"] == "cancelled"


def test_a_running_dispatch_that_is_revoked_is_not_retried(
    client: httpx.Client, gates: Gates, ledger: Ledger, start_worker: StartWorker, operator: Celery
) -> None:
    start_worker(broker_worker, "--concurrency=1").container.ready()
    listening(operator)
    gate = gates.new()
    accepted = client.post(f"/gate-and-fail/{gate}/", headers={"X-Queue": "bulk"})
    wait_until(lambda: state(client, accepted) == "running")
    operator.control.revoke(id_of(accepted), reply=True, timeout=5, limit=1)
    assert state(client, accepted) == "running"
    gates.open(gate)
    assert done(client, accepted)["state"] == "cancelled"
    assert ledger.dispatch(id_of(accepted)).attempts == 1


def test_flower_terminates(
    client: httpx.Client, gates: Gates, start_worker: StartWorker, message_broker: MessageBroker
) -> None:
    start_worker(broker_worker, "--concurrency=1").container.ready()
    port = any_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "celery", f"--broker={message_broker.unattended_url}", "flower", f"--port={port}"]
    flower = Process("flower", [*command, "--address=127.0.0.1"], {"FLOWER_UNAUTHENTICATED_API": "1"}, "Connected to")
    with serving(flower):
        accepted = begin(client, gates.new())
        asked = httpx.post(f"{url}/api/task/revoke/{id_of(accepted)}?terminate=true", trust_env=False)
        assert asked.status_code == 200, asked.text
        assert done(client, accepted)["state"] == "cancelled"
