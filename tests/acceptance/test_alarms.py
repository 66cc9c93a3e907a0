"""RabbitMQ is short of memory or disk: it blocks publishers until workers have read messages."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from broker_django.models import DispatchRecord
from tests import servers
from tests.acceptance.conftest import ALIAS, PATIENCE, broker_worker
from tests.acceptance.test_doctor import doctor
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.acceptance.conftest import Ledger, Site, StartWorker

pytestmark = [
    pytest.mark.skipif(servers.BROKER != "rabbitmq", reason="only RabbitMQ has alarms"),
    pytest.mark.timeout(240),
]

SHORTAGES = {
    "memory": (["set_vm_memory_high_watermark", "0.00001"], ["set_vm_memory_high_watermark", "0.6"]),
    "disk": (["set_disk_free_limit", "1000000000000000"], ["set_disk_free_limit", "50000000"]),
}
MANY = 30
AT_MOST = 4.0
"""Seconds that a client may be held by a message broker that blocks."""


def rabbitmqctl(broker: servers.MessageBroker, *arguments: str) -> str:
    command = servers.require("rabbitmq-server").with_name("rabbitmqctl")
    environment = broker.process.env
    node = ["-n", environment["RABBITMQ_NODENAME"]]
    return subprocess.run(
        [command, *node, *arguments], env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout


@contextlib.contextmanager
def shortage(broker: servers.MessageBroker, of: str) -> Iterator[None]:
    begin, end = SHORTAGES[of]
    rabbitmqctl(broker, *begin)
    try:
        wait_until(lambda: of in rabbitmqctl(broker, "eval", "rabbit_alarm:get_alarms()."), PATIENCE)
        yield
    finally:
        rabbitmqctl(broker, *end)


def accept(client: httpx.Client, queue: str = "payment") -> str:
    before = time.monotonic()
    accepted = client.post("/note/x/", headers={"X-Queue": queue, "Prefer": "respond-async"})
    assert accepted.status_code == 202
    assert time.monotonic() - before < AT_MOST
    return accepted.json()["id"]


def all_succeeded(ids: list[str]) -> bool:
    rows = DispatchRecord.objects.using(ALIAS).filter(pk__in=ids)
    return set(rows.values_list("state", flat=True)) == {"succeeded"}


@pytest.mark.parametrize("of", SHORTAGES)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_drains_its_queues_while_rabbitmq_takes_nothing(
    unattended: Site,
    start_worker: StartWorker,
    ledger: Ledger,
    message_broker: servers.MessageBroker,
    of: str,
    pool: str,
) -> None:
    worker = start_worker(broker_worker, "--concurrency=2", f"--pool={pool}")
    worker.container.ready()
    with unattended.client() as client:
        first = accept(client)
        wait_until(lambda: all_succeeded([first]), PATIENCE)
        worker.container.signal("SIGSTOP")
        published = [accept(client) for _ in range(MANY)]
        with shortage(message_broker, of):
            worker.container.signal("SIGCONT")
            held = [accept(client) for _ in range(3)]
            wait_until(lambda: all_succeeded(published), PATIENCE)
            assert not all_succeeded(held)
            assert [accept(client) for _ in range(3)]
        wait_until(lambda: all_succeeded(held), PATIENCE)
    assert {ledger.executions(each) for each in (*published, *held)} == {1}


@pytest.mark.parametrize("of", SHORTAGES)
def test_a_worker_that_starts_while_rabbitmq_takes_nothing_drains_its_queues(
    unattended: Site, start_worker: StartWorker, ledger: Ledger, message_broker: servers.MessageBroker, of: str
) -> None:
    with unattended.client() as client:
        published = [accept(client) for _ in range(MANY)]
        with shortage(message_broker, of):
            worker = start_worker(broker_worker, "--concurrency=2")
            wait_until(lambda: all_succeeded(published), PATIENCE)
            worker.container.signal("SIGTERM")
            wait_until(lambda: worker.container.status == "exited", PATIENCE)
    assert worker.container.exit_status == 0
    assert {ledger.executions(each) for each in published} == {1}


def test_the_doctor_ends_though_rabbitmq_takes_nothing(
    unattended: Site, environment: dict[str, str], start_worker: StartWorker, message_broker: servers.MessageBroker
) -> None:
    start_worker(broker_worker, "--concurrency=1").container.ready()
    with shortage(message_broker, "memory"):
        status, output = doctor(environment, BROKER_URL=message_broker.unattended_url)
    assert status == 1
    assert "RabbitMQ has blocked the connection" in output
