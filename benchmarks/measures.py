"""The measurements. Each gives figures and, where there is a bar, the ratio and the bar."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis
from django.conf import settings
from django.utils import timezone
from django_celery_results.models import TaskResult

from benchmarks import probe
from broker_core import routing
from broker_core.dispatches import State
from broker_core.routing import RoutingTable
from broker_core.sources import Source
from broker_django.models import Destination, DispatchRecord, Router
from broker_django.table import NONE, load, tables

if TYPE_CHECKING:
    from django.core.handlers.wsgi import WSGIHandler

BROKER_WORKER = ("django", "broker_worker", "--concurrency=2", "--loglevel=INFO", "--noreload", "--no-task-events")
STOCK_WORKER = ("celery", "-A", "benchmarks.stock", "worker", "--concurrency=2", "--loglevel=INFO")
WARM_UP = 20


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


def _clear() -> None:
    """What an earlier measure left behind."""
    redis.Redis.from_url(settings.CELERY_BROKER_URL).flushdb()
    DispatchRecord.objects.all().delete()
    TaskResult.objects.all().delete()


def without_broker() -> WSGIHandler:
    return probe.handler(MIDDLEWARE=settings.OTHER_MIDDLEWARE)


def alone() -> Measure:
    """(a) A view that the broker leaves alone, ten rules and none matching, against no middleware at all."""
    bare, brokered = without_broker(), probe.handler()
    pairs = probe.paired(
        lambda: probe.call(bare, probe.environ("GET", "/plain/"), 200),
        lambda: probe.call(brokered, probe.environ("GET", "/plain/"), 200),
        rounds=400,
        each=25,
    )
    quiet = sorted(pairs, key=sum)[: len(pairs) // 4]  # a bar in microseconds needs the machine for itself
    return Measure(
        "a view left alone, 10 rules",
        statistics.median(with_broker - without for without, with_broker in quiet) * 1e6,
        25.0,
        "lower",
        "us more a request",
        {
            "without_us": statistics.median(without for without, _ in quiet) * 1e6,
            "with_us": statistics.median(with_broker for _, with_broker in quiet) * 1e6,
        },
    )


ROUTERS = (10, 1_000, 10_000)


def unmatched() -> Measure:
    """(e) A request that no router takes, with thousands of them, against none."""
    application, extra = probe.handler(), {}
    for number in ROUTERS:
        table = RoutingTable(_routers(number))
        pairs = probe.paired(
            lambda: _with_table(NONE, application), lambda t=table: _with_table(t, application), rounds=200, each=25
        )
        quiet = sorted(pairs, key=sum)[: len(pairs) // 4]
        extra[number] = statistics.median(routed - plain for plain, routed in quiet) * 1e6
    return Measure(
        f"no router takes the request, {max(ROUTERS):,} routers",
        extra[max(ROUTERS)],
        5.0,
        "lower",
        "us more a request than none",
        {f"with_{number}_us": microseconds for number, microseconds in extra.items()},
    )


def _with_table(table: RoutingTable, application: WSGIHandler) -> None:
    tables._table = table
    probe.call(application, probe.environ("GET", "/plain/"), 200)


def _routers(number: int) -> list[routing.Router]:
    sources = ("/old-{}/", "/shop-{}/<int:pk>/", "/<slug:name>/page-{}/", "/api-{}/*", "/plain/{}/")
    return [
        routing.Router(
            code=f"r{each}",
            source=Source.parse(sources[each % len(sources)].format(each)),
            action=routing.Action.FOUND,
            destinations=(routing.Destination(str(each), "/plain/"),),
        )
        for each in range(number)
    ]


def reload() -> Measure:
    """(f) Compiling the table of 10,000 rows anew, which happens beside the requests."""
    rows = [
        Router(code=router.code, source=router.source.text, action=router.action, condition=f"user.is_staff || {n} < 0")
        for n, router in enumerate(_routers(max(ROUTERS)))
    ]
    Router.objects.bulk_create(rows)
    Destination.objects.bulk_create(Destination(router=row, url="/plain/") for row in rows)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert len(load().routers) == len(rows)
        seconds.append(time.perf_counter() - started)
    Router.objects.all().delete()
    return Measure(f"table of {len(rows):,} routers compiled anew", min(seconds), 1.0, "lower", "s", {})


def acceptance() -> Measure:
    """(b) Accept to 202, against a hand-written view that calls `task.delay()` and returns 202."""
    bare, brokered = without_broker(), probe.handler()
    pairs = probe.paired(
        lambda: probe.call(bare, probe.environ("POST", "/by-hand/", amount="5.00"), 202),
        lambda: probe.call(brokered, probe.environ("POST", "/pay/", amount="5.00"), 202),
        rounds=100,
        each=10,
    )
    return Measure(
        "accept to 202",
        statistics.median(broker / by_hand for by_hand, broker in pairs),
        1.3,
        "lower",
        "times a view with task.delay()",
        {
            "by_hand_us": statistics.median(by_hand for by_hand, _ in pairs) * 1e6,
            "broker_us": statistics.median(broker for _, broker in pairs) * 1e6,
        },
    )


def end_to_end(requests: int = 2_000, blocks: int = 8) -> Measure:
    """(c) Requests queued, run and stored, against a stock Celery task with the same result backend.

    Both workers are up and take turns, a block of requests each, so that a slow minute of the machine hits both.
    """
    _clear()
    bare, brokered = without_broker(), probe.handler()
    stock = broker = 0.0
    with probe.worker(*STOCK_WORKER), probe.worker(*BROKER_WORKER):
        _seconds_until_done(bare, "/by-hand/", WARM_UP)
        _seconds_until_done(brokered, "/pay/", WARM_UP)
        for _ in range(blocks):
            stock += _seconds_until_done(bare, "/by-hand/", requests // blocks)
            broker += _seconds_until_done(brokered, "/pay/", requests // blocks)
    return Measure(
        f"end to end, {requests:,} requests",
        stock / broker,
        0.7,
        "higher",
        "times stock Celery",
        {"stock_per_s": requests / stock, "broker_per_s": requests / broker},
    )


def _seconds_until_done(application: WSGIHandler, path: str, requests: int) -> float:
    """From the first request to the last stored result; what the broker accepted is finished in its ledger too."""
    done_before = _done()
    started = time.perf_counter()
    _post(application, path, requests)
    probe.until(lambda: _done() == done_before + requests and not _unfinished(), 120)
    return time.perf_counter() - started


def _done() -> int:
    return TaskResult.objects.filter(status="SUCCESS").count()


def _unfinished() -> bool:
    return DispatchRecord.objects.exclude(state=State.SUCCEEDED).exists()


def _post(application: WSGIHandler, path: str, requests: int) -> None:
    for _ in range(requests):
        probe.call(application, probe.environ("POST", path, amount="5.00"), 202)


def overtaking(backlog: int = 20_000, payments: int = 300) -> Measure:
    """(d) How long a payment waits to be started behind a bulk backlog, against an idle system."""
    _clear()
    application = probe.handler()
    with probe.worker(*BROKER_WORKER):
        idle = _payment_waits(application, payments)
    _post(application, "/report/", backlog)
    with probe.worker(*BROKER_WORKER):
        _post(application, "/pay/", 4)
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
    return Measure(f"a payment behind {backlog:,} bulk dispatches, p99", ratio, 3.0, "lower", "times idle", figures)


def _payment_waits(application: WSGIHandler, payments: int) -> list[float]:
    """Seconds from accepted to started, of payments that come one after another."""
    mine = DispatchRecord.objects.filter(queue="payment", accepted_at__gte=timezone.now())
    for number in range(1, payments + 1):
        _post(application, "/pay/", 1)
        probe.until(lambda expected=number: mine.filter(state=State.SUCCEEDED).count() == expected, 30)  # type: ignore[misc]
    return [(record.started_at - record.accepted_at).total_seconds() for record in mine if record.started_at]
