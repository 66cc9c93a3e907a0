"""A queue at its limit refuses requests, with a Retry-After."""

from __future__ import annotations

import threading
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.db import OperationalError
from django.test import AsyncClient, Client, override_settings
from django.utils import timezone

from broker_core.backpressure import NOTHING_DRAINS
from broker_core.policies import QueuePolicy
from broker_django.admission import capacity
from broker_django.messaging.celery_app import get_app
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    def __init__(self) -> None:
        self.now = timezone.now()

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a process that has not measured yet."""
    clock = Clock()
    monkeypatch.setattr(capacity, "gauges", capacity.Gauges(clock))
    return clock


@pytest.fixture(autouse=True)
def queued() -> Iterator[None]:
    """Celery is not eager and no test commits, so accepted dispatches are not published."""
    app = get_app()
    app.conf.task_always_eager = False
    yield
    app.conf.task_always_eager = True


def wait_on(queue: str, count: int, clock: Clock, age: float = 0.0, **values: Any) -> list[DispatchRecord]:
    accepted = clock.now - timedelta(seconds=age)
    common = {"method": "GET", "path": "/", "route": "/", "sealed": b"sealed"}
    rows = [
        DispatchRecord(**{"queue": queue, "accepted_at": accepted, "id": uuid.uuid4(), **common, **values})
        for _ in range(count)
    ]
    return DispatchRecord.objects.bulk_create(rows)


def limits(**queues: dict[str, Any]) -> Any:
    rules = [{"when": f"request.headers['x-queue'] == '{name}'", "queue": name} for name in ("realtime", "bulk")]
    return override_settings(REQUEST_BROKER={"QUEUES": queues, "RULES": rules})


def post(client: Client, queue: str = "payment") -> Any:
    return client.get("/echo/", headers={"X-Queue": queue}) if queue != "payment" else client.post("/pay/")


def test_a_queue_at_its_limit_refuses_with_a_retry_after(client: Client, clock: Clock) -> None:
    wait_on("payment", 3, clock)
    with limits(payment={"max_depth": 3}):
        response = post(client)
    assert (response.status_code, response["Content-Type"]) == (503, "application/problem+json")
    assert response.json() == {
        "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        "title": "There is no capacity for this request at the moment",
        "status": 503,
        "detail": "the queue payment is full",
    }
    assert response["Retry-After"] == str(NOTHING_DRAINS)
    assert response["Cache-Control"] == "private, no-store"
    assert DispatchRecord.objects.count() == 3


def test_below_its_limit_a_queue_accepts_only_up_to_it_within_one_sample(client: Client, clock: Clock) -> None:
    wait_on("payment", 1, clock)
    with limits(payment={"max_depth": 3}):
        assert [post(client).status_code for _ in range(4)] == [202, 202, 503, 503]


def test_it_works_under_asgi(async_client: AsyncClient, clock: Clock) -> None:
    with limits(payment={"max_depth": 1}):
        assert [async_to_sync(async_client.post)("/pay/").status_code for _ in range(2)] == [202, 503]


def test_running_and_finished_dispatches_do_not_count(client: Client, clock: Clock) -> None:
    wait_on("payment", 5, clock, state="running")
    wait_on("payment", 5, clock, state="succeeded")
    wait_on("bulk", 5, clock)
    with limits(payment={"max_depth": 1}):
        assert post(client).status_code == 202


def test_a_queue_whose_oldest_waits_too_long_refuses(client: Client, clock: Clock) -> None:
    with limits(payment={"max_age": 60}):
        wait_on("payment", 1, clock, age=59)
        assert post(client).status_code == 202
        clock.forward(1)
        assert post(client).status_code == 503


def test_dispatches_that_wait_for_a_retry_are_not_too_old(client: Client, clock: Clock) -> None:
    wait_on("payment", 1, clock, age=600, attempts=1, due_at=clock.now + timedelta(hours=1))
    with limits(payment={"max_age": 60}):
        assert post(client).status_code == 202


def test_lower_classes_are_refused_before_higher_ones(client: Client, clock: Clock) -> None:
    with limits(payment={"max_depth": 10}):
        wait_on("payment", 7, clock)
        assert [post(client, queue).status_code for queue in ("bulk", "realtime")] == [202, 202]
        wait_on("payment", 1, clock)
        clock.forward(1)
        assert [post(client, queue).status_code for queue in ("bulk", "realtime", "payment")] == [503, 503, 202]


def test_a_retry_after_is_the_time_that_the_queue_needs(client: Client, clock: Clock) -> None:
    rows = wait_on("payment", 100, clock)
    with limits(payment={"max_depth": 50}):
        assert post(client)["Retry-After"] == str(NOTHING_DRAINS)
        clock.forward(10)
        for row in rows[:20]:
            row.state = "succeeded"
        DispatchRecord.objects.bulk_update(rows[:20], ["state"])
        response = post(client)
        assert response["Retry-After"] == "16", "31 too many, 2 a second leave"
        clock.forward(16)
        for row in rows[20:52]:
            row.state = "succeeded"
        DispatchRecord.objects.bulk_update(rows[20:52], ["state"])
        assert post(client).status_code == 202


def test_arrivals_count_as_drained_if_the_queue_did_not_grow(client: Client, clock: Clock) -> None:
    wait_on("payment", 20, clock)
    with limits(payment={"max_depth": 20}):
        post(client)
        clock.forward(100)
        wait_on("payment", 5, clock, age=50, state="succeeded")
        assert post(client)["Retry-After"] == "20", "one too many, 5 have left in 100 s"


def test_the_first_sample_is_estimated_by_littles_law(client: Client, clock: Clock) -> None:
    wait_on("payment", 20, clock, age=10)
    with limits(payment={"max_depth": 11}):
        assert post(client)["Retry-After"] == "5"


def test_a_queue_without_a_limit_costs_no_query(client: Client, clock: Clock, django_assert_num_queries: Any) -> None:
    with limits(bulk={"max_depth": 10}):
        for queue in ("payment", "realtime"):
            with django_assert_num_queries(1):
                assert post(client, queue).status_code == 202


def test_a_load_is_measured_once_a_second(client: Client, clock: Clock, django_assert_num_queries: Any) -> None:
    wait_on("payment", 1, clock)
    with limits(payment={"max_depth": 100}):
        for queries in (2 + 1, 1, 1):
            with django_assert_num_queries(queries):
                post(client)
        clock.forward(1)
        with django_assert_num_queries(3 + 1):
            post(client)


def test_the_load_is_measured_again_before_a_request_is_refused(
    client: Client, clock: Clock, django_assert_num_queries: Any
) -> None:
    waiting = wait_on("payment", 8, clock)
    with limits(payment={"max_depth": 10}):
        for queries in (2 + 1, 1):  # nine and ten: near the limit nobody looks for nothing
            clock.forward(0.2)
            with django_assert_num_queries(queries):
                assert post(client).status_code == 202
        DispatchRecord.objects.filter(pk__in=[record.pk for record in waiting]).update(state="running")
        clock.forward(0.2)
        assert post(client).status_code == 202


def test_while_one_thread_measures_others_use_the_previous_sample(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge, begun, go_on = capacity.Gauge("payment", clock), threading.Event(), threading.Event()
    policy = QueuePolicy(max_depth=5)
    first = gauge.read(policy)

    def measure(*_: Any) -> capacity.Load:
        begun.set()
        go_on.wait(10)
        return capacity.Load(5, 0.0, clock.now)

    clock.forward(1)
    monkeypatch.setattr(capacity, "measure", measure)
    monkeypatch.setattr(capacity.ledger, "arrivals", lambda *_: 0)
    measuring = threading.Thread(target=gauge.read, args=[policy])
    measuring.start()
    assert begun.wait(10)
    assert gauge.read(policy) == first
    go_on.set()
    measuring.join()
    found = gauge.read(policy)
    assert found is not None and found.depth == 5


def test_an_unavailable_ledger_refuses_nothing(client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(capacity, "measure", fail)
    with limits(payment={"max_depth": 1}):
        assert post(client).status_code == 202


def test_in_eager_mode_no_limit_applies(client: Client, clock: Clock) -> None:
    wait_on("payment", 3, clock)
    get_app().conf.task_always_eager = True
    with limits(payment={"max_depth": 3}):
        assert post(client).status_code == 202


def test_refusals_are_logged_once_a_minute(client: Client, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    wait_on("payment", 3, clock, age=7)
    with limits(payment={"max_depth": 3}):
        for seconds in (0, 30, 30):
            clock.forward(seconds)
            post(client)
    logged = [record.getMessage() for record in caplog.records if record.name == "broker_django.admission.capacity"]
    assert logged == [f"The queue payment refuses requests (payment: 3 wait, {age} s)" for age in (7, 67)]
