"""`broker_doctor` beside the site's own processes."""

from __future__ import annotations

import os
import sys
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from celery import Celery
from django.utils import timezone

from broker_core.dispatches import State
from broker_django.development.ports import any_port
from broker_django.models import DispatchRecord
from tests import servers
from tests.acceptance.conftest import ALIAS, broker_worker, plain_worker
from tests.processes import finished, wait_until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker, Worker


def doctor(environment: dict[str, str], **variables: str) -> tuple[int, str]:
    process = finished([sys.executable, "-m", "django", "broker_doctor"], {**os.environ, **environment, **variables})
    return process.returncode, process.stdout + process.stderr


def doctor_until(environment: dict[str, str], text: str) -> tuple[int, str]:
    """Returns the first output that contains the text: workers may still be starting."""
    said = [(0, "")]

    def says() -> bool:
        said.append(doctor(environment))
        return text in said[-1][1]

    wait_until(says)
    return said[-1]


@pytest.fixture(autouse=True)
def nothing_unfinished(ledger: Ledger) -> None:
    """Remove dispatches of other tests, which would be findings."""
    DispatchRecord.objects.using(ALIAS).filter(state__in=[State.QUEUED, State.RUNNING]).delete()


def test_nothing_is_reported_with_a_worker_on_every_queue(environment: dict[str, str], worker: Worker) -> None:
    status, output = doctor_until(environment, "ran a probe")
    assert status == 0, output
    for subject in ("message broker", "result store", f"clock of {worker.hostname()}"):
        assert f"ok   {subject}: " in output
    for queue in ("payment", "realtime", "bulk"):
        assert f"ok   queue {queue}: served by {worker.hostname()}" in output
    assert f"ok   keys of {worker.hostname()}: the same" in output
    assert f"ok   worker {worker.hostname()}: ran a probe in " in output


def test_queues_without_a_worker_are_reported(environment: dict[str, str], unattended: Site) -> None:
    url = unattended.process.env["BROKER_URL"]
    status, output = doctor(environment, BROKER_URL=url)
    assert status == 1
    assert "ok   message broker: " in output
    assert "FAIL queue payment: no worker serves it" in output
    assert "broker_worker --queues payment" in output
    assert "its PREFIX differs" in output
    if url.startswith("redis"):
        assert redis.Redis.from_url(url).keys("*request-broker-*") == []


def test_an_unreachable_message_broker_is_reported_as_the_cause_of_waiting_dispatches(
    environment: dict[str, str], ledger: Ledger
) -> None:
    long_ago = timezone.now() - timedelta(minutes=5)
    DispatchRecord.objects.using(ALIAS).create(
        id=uuid.uuid4(), queue="bulk", state=State.QUEUED, accepted_at=long_ago, sealed=b""
    )
    scheme = "amqp" if servers.BROKER.endswith("rabbitmq") else "redis"
    status, output = doctor(environment, BROKER_URL=f"{scheme}://127.0.0.1:{any_port()}/")
    assert status == 1
    assert "FAIL message broker: " in output
    assert "Start it, or correct CELERY_BROKER_URL" in output
    assert "FAIL backlog of bulk: 1 dispatch waits" in output
    assert "the message broker is down" in output


@pytest.fixture
def there(unattended: Site, environment: dict[str, str]) -> dict[str, str]:
    """Returns the variables of a doctor without the shared worker."""
    return {**environment, "BROKER_URL": unattended.process.env["BROKER_URL"]}


def hold(site: Site, ledger: Ledger, gate: str, number: int) -> list[str]:
    """Returns the ids of this many dispatches, which run until the gate is opened."""
    with site.client() as client:
        ids = [client.get(f"/gate/{gate}/", headers={"X-Queue": "bulk"}).json()["id"] for _ in range(number)]
    wait_until(lambda: {row.state for row in ledger.dispatches(ids)} == {"running"})
    return ids


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_without_a_free_slot_is_busy_and_its_tasks_are_named(
    unattended: Site, there: dict[str, str], ledger: Ledger, gates: Gates, start_worker: StartWorker, pool: str
) -> None:
    worker = start_worker(broker_worker, "--concurrency=2", f"--pool={pool}")
    gate = gates.new()
    ids = hold(unattended, ledger, gate, 2)
    status, output = doctor(there)
    gates.open(gate)
    assert status == 0, output
    assert f"ok   worker {worker.hostname()}: busy: 2 of 2 slots run GET /gate/<slug:name>/ (bulk) (" in output
    assert all(each in output for each in ids)


def test_a_worker_that_answers_only_between_two_tasks_is_busy(
    unattended: Site, there: dict[str, str], ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    worker = start_worker(plain_worker, "--pool=solo")
    gate = gates.new()
    hold(unattended, ledger, gate, 1)
    _status, output = doctor(there)
    gates.open(gate)
    assert f"ok   queue bulk: served by {worker.hostname()}" in output
    assert f"ok   worker {worker.hostname()}: busy: it does not answer, but renews leases" in output


@pytest.mark.parametrize("options", [(), ("--queues=payment,bulk", "--processes=3")])
def test_a_probe_finds_a_free_slot_beside_reserved_ones(
    unattended: Site,
    there: dict[str, str],
    ledger: Ledger,
    gates: Gates,
    start_worker: StartWorker,
    options: tuple[str, ...],
) -> None:
    worker = start_worker(broker_worker, *(options or ("--processes=3",)), PAYMENT_RESERVE="1")
    gate = gates.new()
    hold(unattended, ledger, gate, 1)
    _status, output = doctor(there)
    gates.open(gate)
    assert f"ok   worker {worker.hostname()}: ran a probe in " in output
    assert "1 of 3 slots are busy" in output


def test_a_worker_with_stuck_processes_is_reported(
    unattended: Site, there: dict[str, str], start_worker: StartWorker
) -> None:
    worker = start_worker(broker_worker, "--concurrency=2")
    worker.wait_for_log(" ready.")
    for child in psutil.Process(worker.container.pid).children(recursive=True):
        if not child.children():
            child.suspend()
    status, output = doctor(there)
    assert status == 1
    assert f"FAIL worker {worker.hostname()}: it answers, but ran no task within 5 s though 2 of 2 slots" in output


def test_lost_slots_are_reported(unattended: Site, there: dict[str, str], start_worker: StartWorker) -> None:
    worker = start_worker(broker_worker, "--concurrency=2", "--pool=threads")
    with Celery(broker=there["BROKER_URL"], set_as_current=False) as app:
        app.send_task("tests.leave", queue="bulk")
    status, output = doctor_until(there, "1 of 2 slots are lost")
    assert status == 1
    assert f"FAIL worker {worker.hostname()}: 1 of 2 slots are lost: their tasks ended unnoticed" in output


def test_a_worker_of_another_project_on_our_queues_is_reported(
    unattended: Site, there: dict[str, str], start_worker: StartWorker
) -> None:
    start_worker(broker_worker, "--concurrency=1", SECRET_KEY="of another project")
    status, output = doctor_until(there, "keys of ")
    assert status == 1
    assert "it consumes our queues but has none of our keys: another project, or another SECRET_KEY" in output
    assert "give each project its own PREFIX in REQUEST_BROKER" in output
    assert "FAIL queue bulk: no worker serves it" in output
