"""The measurements. Each gives figures and, where there is a bar, the ratio and the bar."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django_celery_results.models import TaskResult

from benchmarks import probe
from broker_core.dispatches import State
from broker_django.models import DispatchRecord

BROKER_WORKER = ("django", "broker_worker", "--concurrency=2", "--loglevel=INFO", "--noreload", "--no-task-events")
STOCK_WORKER = ("celery", "-A", "benchmarks.stock", "worker", "--concurrency=2", "--loglevel=INFO")


@dataclass(frozen=True, slots=True)
class Measure:
    """One comparison: `value` against `bar`, in `unit`; `better` says on which side of the bar it should be."""

    name: str
    value: float
    bar: float
    better: str
    unit: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.value <= self.bar if self.better == "lower" else self.value >= self.bar


def alone() -> Measure:
    """(a) A view that the broker leaves alone, ten rules and none matching, against no middleware at all."""
    bare = probe.handler(MIDDLEWARE=settings.OTHER_MIDDLEWARE)
    brokered = probe.handler()
    without, with_broker = probe.paired(
        lambda: probe.call(bare, probe.environ("GET", "/plain/"), 200),
        lambda: probe.call(brokered, probe.environ("GET", "/plain/"), 200),
        rounds=40,
        each=250,
    )
    extra = (with_broker - without) * 1e6
    return Measure(
        "a view left alone, 10 rules",
        extra,
        25.0,
        "lower",
        "us more a request",
        {"without_us": without * 1e6, "with_us": with_broker * 1e6},
    )


def acceptance() -> Measure:
    """(b) Accept to 202, against a hand-written view that calls `task.delay()` and returns 202."""
    application = probe.handler()
    by_hand, broker = probe.paired(
        lambda: probe.call(application, probe.environ("POST", "/by-hand/", amount="5.00"), 202),
        lambda: probe.call(application, probe.environ("POST", "/pay/", amount="5.00"), 202),
        rounds=20,
        each=50,
    )
    return Measure(
        "accept to 202",
        broker / by_hand,
        1.3,
        "lower",
        "times a view with task.delay()",
        {"by_hand_us": by_hand * 1e6, "broker_us": broker * 1e6},
    )


def end_to_end(requests: int = 2_000, rounds: int = 3) -> Measure:
    """(c) Requests queued, run and stored, against a stock Celery task with the same result backend."""
    broker, stock = [], []
    for _ in range(rounds):
        stock.append(_stock_run(requests))
        broker.append(_broker_run(requests))
    rates = {"stock_per_s": requests / min(stock), "broker_per_s": requests / min(broker)}
    return Measure(
        "end to end, 2,000 requests",
        rates["broker_per_s"] / rates["stock_per_s"],
        0.7,
        "higher",
        "times stock Celery",
        rates,
    )


def _broker_run(requests: int) -> float:
    DispatchRecord.objects.all().delete()
    TaskResult.objects.all().delete()
    application = probe.handler()
    with probe.worker(*BROKER_WORKER):
        _warm_up(application, "/pay/", 20)
        probe.until(lambda: _finished() == 20, 60)
        started = time.perf_counter()
        for _ in range(requests):
            probe.call(application, probe.environ("POST", "/pay/", amount="5.00"), 202)
        probe.until(lambda: _finished() == requests + 20, 120)
        return time.perf_counter() - started


def _stock_run(requests: int) -> float:
    TaskResult.objects.all().delete()
    application = probe.handler()
    with probe.worker(*STOCK_WORKER):
        _warm_up(application, "/by-hand/", 20)
        probe.until(lambda: TaskResult.objects.filter(status="SUCCESS").count() == 20, 60)
        started = time.perf_counter()
        for _ in range(requests):
            probe.call(application, probe.environ("POST", "/by-hand/", amount="5.00"), 202)
        probe.until(lambda: TaskResult.objects.filter(status="SUCCESS").count() == requests + 20, 120)
        return time.perf_counter() - started


def _finished() -> int:
    return DispatchRecord.objects.filter(state=State.SUCCEEDED).count()


def _warm_up(application: Any, path: str, requests: int) -> None:
    for _ in range(requests):
        probe.call(application, probe.environ("POST", path, amount="1.00"), 202)


def overtaking(backlog: int = 20_000, payments: int = 300) -> Measure:
    """(d) How long a payment waits to be started behind a bulk backlog, against an idle system."""
    DispatchRecord.objects.all().delete()
    application = probe.handler()
    with probe.worker(*BROKER_WORKER):
        idle = _payment_waits(application, payments)
    for _ in range(backlog):
        probe.call(application, probe.environ("POST", "/report/", amount="5.00"), 202)
    with probe.worker(*BROKER_WORKER):
        _warm_up(application, "/pay/", 4)
        busy = _payment_waits(application, payments)
        left = DispatchRecord.objects.filter(queue="bulk", state=State.QUEUED).count()
    if not left:
        raise RuntimeError("the backlog was gone before the payments were")
    figures = {
        "idle_p50_ms": probe.percentile(idle, 50) * 1e3,
        "idle_p99_ms": probe.percentile(idle, 99) * 1e3,
        "busy_p50_ms": probe.percentile(busy, 50) * 1e3,
        "busy_p99_ms": probe.percentile(busy, 99) * 1e3,
        "bulk_left": float(left),
    }
    ratio = figures["busy_p99_ms"] / figures["idle_p99_ms"]
    return Measure("a payment behind 20,000 bulk dispatches, p99", ratio, 3.0, "lower", "times idle", figures)


def _payment_waits(application: Any, payments: int) -> list[float]:
    """Seconds from accepted to started, of payments that come one after another."""
    before = set(DispatchRecord.objects.filter(queue="payment").values_list("pk", flat=True))
    mine = DispatchRecord.objects.filter(queue="payment").exclude(pk__in=before)
    for number in range(1, payments + 1):
        probe.call(application, probe.environ("POST", "/pay/", amount="5.00"), 202)
        probe.until(lambda expected=number: mine.filter(state=State.SUCCEEDED).count() == expected, 30)  # type: ignore[misc]
    return [(record.started_at - record.accepted_at).total_seconds() for record in mine if record.started_at]
