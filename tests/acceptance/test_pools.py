"""Workers that distribute their processes by the weights of destinations."""

from __future__ import annotations

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from celery import Celery

from broker_core.routing.balancing import choose
from broker_django.models import Destination, DispatchRecord, Router
from tests.acceptance.conftest import ALIAS, broker_worker, log_in
from tests.acceptance.prepare import STAFF
from tests.acceptance.test_order import send, wait_for_all
from tests.forms import router_form
from tests.processes import finished, wait_until
from tests.site.models import Execution

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker, Worker
    from tests.servers import MessageBroker

POOLS = "--queues=bulk-eu,bulk-us"
SOON = 3.0
"""Seconds in which running workers apply a change in the admin."""

CLIENTS = 6

DISPATCHES = int(os.environ.get("TEST_DISPATCHES", "400"))
"""How many dispatches must show the weights: 4,000 show them within 2 per cent."""


@pytest.fixture
def router(ledger: Ledger) -> Iterator[Router]:
    by_visitor = {"sticky_by": "header", "sticky_name": "X-Visitor"}
    row = Router.objects.using(ALIAS).create(code="regions", source="/note/*", action="queue", **by_visitor)
    row.destinations.create(url="bulk-eu", weight=3)
    row.destinations.create(url="bulk-us", weight=1)
    yield row
    Router.objects.using(ALIAS).filter(code="regions").delete()


def processes(worker: Worker, message_broker: MessageBroker) -> dict[str, int]:
    """Returns how many processes serve each queue alone, as the worker reports it."""
    with Celery(broker=message_broker.unattended_url, set_as_current=False) as app:
        inspect = app.control.inspect(destination=[worker.hostname()], timeout=2)
        status = inspect._request("broker_status") or {}
    return dict(status.get(worker.hostname(), {}).get("processes", {}).get("dedicated", {}))


def weigh_in_the_admin(client: httpx.Client, row: Router, *weights: int) -> None:
    """Save the form of the router with these weights for its destinations, in their order."""
    page = f"/admin/broker_django/router/{row.pk}/change/"
    client.get(page).raise_for_status()
    changes = {f"destinations-{number}-weight": weight for number, weight in enumerate(weights)}
    token = {"X-CSRFToken": client.cookies["csrftoken"]}
    response = client.post(page, data=router_form(row, **changes), headers=token)
    assert response.status_code == 302, response.text


class Traffic:
    """Sends requests of many visitors, one after the other on a few connections, while it is open."""

    def __init__(self, site: Site) -> None:
        self.ids: list[str] = []
        self.visitors: dict[str, str] = {}
        self._site = site
        self._visitors = count()
        self._ended = threading.Event()
        self._threads = ThreadPoolExecutor(CLIENTS)
        self._runs = [self._threads.submit(self._run) for _ in range(CLIENTS)]

    def _run(self) -> None:
        with self._site.client() as client:
            while not self._ended.is_set():
                visitor = str(next(self._visitors))
                response = client.get("/note/pooled/", headers={"X-Visitor": visitor})
                assert response.status_code == 202, response.text
                self.visitors[response.json()["id"]] = visitor
                self.ids.append(response.json()["id"])

    def wait_for(self, number: int) -> list[str]:
        """Returns the next `number` ids."""
        start = len(self.ids)
        wait_until(lambda: len(self.ids) >= start + number or any(run.done() for run in self._runs), 600)
        assert len(self.ids) >= start + number, "the traffic has ended"
        return self.ids[start : start + number]

    def end(self) -> None:
        self._ended.set()
        for run in self._runs:
            run.result()
        self._threads.shutdown()


@pytest.fixture
def traffic(unattended: Site, router: Router) -> Iterator[Traffic]:
    with unattended.client() as client:
        wait_until(lambda: client.get("/note/pooled/").status_code == 202, SOON)
    flowing = Traffic(unattended)
    yield flowing
    flowing.end()


def astray(traffic: Traffic, router: Router, ids: list[str]) -> list[str]:
    """Returns the dispatches that are not in the queue of their visitor by the current weights."""
    rows = list(Destination.objects.using(ALIAS).filter(router=router.pk))
    urls, weights = {str(row.pk): row.url for row in rows}, {str(row.pk): row.weight for row in rows}
    queues = dict(DispatchRecord.objects.using(ALIAS).filter(pk__in=ids).values_list("pk", "queue"))
    assert len(queues) == len(ids)
    wanted = {each: urls[choose(weights, traffic.visitors[each], router.code)] for each in ids}
    return [each for each in ids if queues[UUID(each)] != wanted[each]]


@pytest.mark.timeout(1500)
def test_pools_get_their_shares_and_follow_the_admin_while_work_flows(
    message_broker: MessageBroker, router: Router, traffic: Traffic, unattended: Site, start_worker: StartWorker
) -> None:
    worker = start_worker(broker_worker, POOLS, "--processes=4")
    wait_until(lambda: processes(worker, message_broker) == {"bulk-eu": 3, "bulk-us": 1})
    assert astray(traffic, router, traffic.wait_for(DISPATCHES)) == []
    with unattended.client() as client:
        weigh_in_the_admin(log_in(client, STAFF), router, 1, 3)
    wait_until(lambda: processes(worker, message_broker) == {"bulk-eu": 1, "bulk-us": 3}, SOON)
    assert "Routers have changed" in worker.container.logs()
    wait_until(lambda: astray(traffic, router, traffic.wait_for(20)) == [], SOON)
    assert astray(traffic, router, traffic.wait_for(DISPATCHES // 4)) == []
    traffic.end()
    sent = DispatchRecord.objects.using(ALIAS).filter(pk__in=traffic.ids)
    wait_until(lambda: sent.exclude(state="succeeded").count() == 0, 120)
    assert sent.count() == len(traffic.ids)
    executions = Execution.objects.using(ALIAS).values_list("dispatch", flat=True)
    assert Counter(executions) & Counter(traffic.ids * 2) == Counter(traffic.ids)


def hold(site: Site, queue: str, gate: str, number: int) -> list[str]:
    """Returns the ids of this many dispatches, which run until the gate is open."""
    with site.client() as client:
        accepted = [client.get(f"/gate/{gate}/", headers={"X-Queue": queue}) for _ in range(number)]
    assert {response.status_code for response in accepted} == {202}, {response.text for response in accepted}
    return [response.json()["id"] for response in accepted]


def running(ledger: Ledger, ids: list[str]) -> int:
    return [row.state for row in ledger.dispatches(ids)].count("running")


def test_a_pool_has_its_own_processes_and_a_change_stops_no_task(
    message_broker: MessageBroker,
    router: Router,
    unattended: Site,
    ledger: Ledger,
    gates: Gates,
    start_worker: StartWorker,
) -> None:
    gate = gates.new()
    held = hold(unattended, "bulk-eu", gate, 6)
    worker = start_worker(broker_worker, POOLS, "--processes=4")
    wait_until(lambda: running(ledger, held) == 3)
    with unattended.client() as client:
        wait_for_all(ledger, send(client, "bulk-us", 10))
        assert running(ledger, held) == 3
        Destination.objects.using(ALIAS).filter(url="bulk-us").update(weight=9)
        wait_until(lambda: processes(worker, message_broker) == {"bulk-eu": 1, "bulk-us": 3}, SOON)
        wait_for_all(ledger, send(client, "bulk-us", 10))
    assert running(ledger, held) == 3
    gates.open(gate)
    wait_for_all(ledger, held)
    assert {row.attempts for row in ledger.dispatches(held)} == {1}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_reserved_process_is_kept_from_slower_queues(
    message_broker: MessageBroker, unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker, pool: str
) -> None:
    gate = gates.new()
    held = hold(unattended, "bulk", gate, 5)
    start_worker(broker_worker, "--queues=payment,bulk", "--processes=3", f"--pool={pool}", PAYMENT_RESERVE="1")
    left = 2 if message_broker.is_redis else 1  # RabbitMQ gives each queue processes by weight
    wait_until(lambda: running(ledger, held) == left)
    with unattended.client() as client:
        wait_for_all(ledger, send(client, "payment", 20))
    assert running(ledger, held) == left
    gates.open(gate)
    wait_for_all(ledger, held)


def test_a_worker_shows_its_plan(message_broker: MessageBroker, environment: dict[str, str], router: Router) -> None:
    shown = finished([*broker_worker("unused", POOLS, "--processes=8", "--show")], {**os.environ, **environment})
    assert [line.split()[:2] for line in shown.stdout.splitlines()[1:3]] == [["bulk-eu", "6"], ["bulk-us", "2"]]
