"""The measurements. Each returns its figures and compares a value with a limit."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import redis
from django.conf import settings
from django.test.utils import override_settings
from django.utils import timezone
from django_celery_results.models import TaskResult

from benchmarks import harness, ledgers
from benchmarks.harness import Contender
from broker_core import routing
from broker_core.dispatches import State
from broker_core.policies import DAY
from broker_core.routing import RoutingTable
from broker_core.routing.sources import Source
from broker_django.ledger import retention as housekeeping
from broker_django.models import Destination, DispatchRecord, Router
from broker_django.routing.table import NONE, load, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.core.handlers.wsgi import WSGIHandler

BROKER_WORKER = ("django", "broker_worker", "--concurrency=2", "--loglevel=INFO", "--noreload", "--no-task-events")
STOCK_WORKER = ("celery", "-A", "benchmarks.stock", "worker", "--concurrency=2", "--loglevel=INFO")
WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Measure:
    """One comparison: `value` with `bar`, in `unit`. `better` is "lower" or "higher"."""

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
    """Removes what an earlier measurement left."""
    redis.Redis.from_url(settings.CELERY_BROKER_URL).flushdb()
    DispatchRecord.objects.all().delete()
    TaskResult.objects.all().delete()


def without_broker() -> WSGIHandler:
    return harness.handler(MIDDLEWARE=settings.OTHER_MIDDLEWARE)


def alone() -> Measure:
    """(a) A view that the broker leaves alone, with ten rules that do not match, against no broker middleware."""
    contenders = {"without": _plain(without_broker()), "with": _plain(harness.handler())}
    rounds = harness.Rounds(contenders, 4_000)
    return Measure(
        "a view left alone, 10 rules",
        rounds.more("with", "without") * 1e6,
        25.0,
        "lower",
        "us more a request",
        rounds.microseconds(),
    )


def _plain(application: WSGIHandler, prepare: Callable[[], None] = lambda: None) -> Contender:
    return Contender(lambda: harness.call(application, harness.environ("GET", "/plain/"), 200), prepare)


ROUTERS = (10, 1_000, 10_000)


def unmatched() -> Measure:
    """(e) A request that matches no router, with thousands of routers, against none; and django-route with one."""
    application = harness.handler()
    contenders = {"none": _plain(application, partial(use_table, NONE))}
    for number in ROUTERS:
        contenders[f"{number}_routers"] = _plain(application, partial(use_table, RoutingTable(_routers(number))))
    awkward = RoutingTable(_routers(max(ROUTERS), AWKWARD))
    contenders["awkward_routers"] = _plain(application, partial(use_table, awkward))
    rounds = harness.Rounds(contenders, 2_000)
    use_table(NONE)
    others = harness.Rounds({"without": _plain(without_broker())} | _django_route(_plain), 1_000)
    return Measure(
        f"no router takes the request, {max(ROUTERS):,} routers",
        rounds.more(f"{max(ROUTERS)}_routers", "none") * 1e6,
        5.0,
        "lower",
        "us more a request than none",
        rounds.microseconds() | others.microseconds(),
    )


def use_table(table: RoutingTable) -> None:
    """Use this table until rows change."""
    tables._table = table


def wait_for_table() -> None:
    """Wait until the watching thread has loaded the rows. Otherwise it would replace a table set by `use_table`."""
    tables.current()
    harness.wait_until(lambda: tables._version is not None, 10)


def _django_route(contender: Callable[[WSGIHandler, Callable[[], None]], Contender]) -> dict[str, Contender]:
    """The same with django-route, if it is installed, with and without its cache."""
    if "django_route" not in settings.INSTALLED_APPS:
        return {}
    application = harness.handler(MIDDLEWARE=settings.DJANGO_ROUTE_MIDDLEWARE)
    return {
        "django_route": contender(application, partial(setattr, settings, "ROUTING_CACHE", False)),
        "django_route_cached": contender(application, partial(setattr, settings, "ROUTING_CACHE", True)),
    }


def redirected() -> Measure:
    """(g) A redirect to one of two destinations, among 1,000 routers; django-route with only that router."""
    application = harness.handler()
    rows = [Router(code="moved", source="/moved/", action="302")]
    theirs = _rows_of_django_route()
    targets = [("/plain/", 3), ("/pay/", 1)]
    Router.objects.bulk_create(rows)
    Destination.objects.bulk_create(Destination(router=rows[0], url=url, weight=weight) for url, weight in targets)
    table = RoutingTable([*load().routers, *_routers(1_000)])
    contenders = {"broker": _moved(application, partial(use_table, table))} | _django_route(_moved)
    rounds = harness.Rounds({"view": _plain(without_broker())} | contenders, 1_000)
    use_table(NONE)
    Router.objects.all().delete()
    for model in theirs:
        model.objects.all().delete()
    return Measure(
        "a redirect by weight",
        rounds.times("broker", "django_route_cached" if theirs else "broker"),
        1.0,
        "lower",
        "times django-route, cached",
        rounds.microseconds(),
    )


def _moved(application: WSGIHandler, prepare: Callable[[], None]) -> Contender:
    """The visitor has a session; without one, django-route would create one per request."""
    cookie = {"HTTP_COOKIE": "sessionid=0123456789abcdef0123456789abcdef"}
    return Contender(lambda: harness.call(application, harness.environ("GET", "/moved/") | cookie, 302), prepare)


def _rows_of_django_route() -> list[Any]:
    """Creates the same router for django-route. Returns the models with rows."""
    if "django_route" not in settings.INSTALLED_APPS:
        return []
    from django_route import models

    row = models.Router.objects.create(code="moved", source="/moved/", action="302")
    row.destinations.create(url="/plain/", weight=3)
    row.destinations.create(url="/pay/", weight=1)
    return [models.Router]


def queued() -> Measure:
    """(h) From the request to the 202: by a router among 1,000, against a decorator."""
    application = harness.handler()
    source, target = Source.parse("/work/"), routing.Destination("bulk", "bulk")
    router = routing.Router("queued", source, routing.Action.QUEUE, (target,))
    table = RoutingTable([router, *_routers(1_000)])
    contenders = {
        name: _accepted(application, f"/{path}/", partial(use_table, table))
        for name, path in (("decorator", "report"), ("router", "work"))
    }
    rounds = harness.Rounds(contenders, 400)
    use_table(NONE)
    return Measure(
        "accepted by a router",
        rounds.times("router", "decorator"),
        1.05,
        "lower",
        "times by a decorator",
        rounds.microseconds(),
    )


def _accepted(application: WSGIHandler, path: str, prepare: Callable[[], None]) -> Contender:
    return Contender(lambda: harness.call(application, harness.environ("POST", path, amount="5.00"), 202), prepare)


USUAL = ("/old-{}/", "/shop-{}/<int:pk>/", "/<slug:name>/page-{}/", "/api-{}/*", "/plain/{}/")
AWKWARD = ("/p{}-<int:pk>/", "/<slug:name>-{}/", "/<path:file>/t{}")
"""Patterns that only differ near their parameters."""


def _routers(number: int, sources: Sequence[str] = USUAL) -> list[routing.Router]:
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
    """(f) Loading the table of 10,000 rows, each with its own condition, which happens beside the requests.

    Unchanged conditions and sources are not compiled again.
    """
    rows = [
        Router(code=router.code, source=router.source.text, action=router.action, condition=f"user.is_staff || {n} < 0")
        for n, router in enumerate(_routers(max(ROUTERS)))
    ]
    Router.objects.bulk_create(rows)
    Destination.objects.bulk_create(Destination(router=row, url="/plain/") for row in rows)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        assert len(load().routers) == len(rows)
        seconds.append(time.perf_counter() - started)
    Router.objects.all().delete()
    figures = {"first_s": seconds[0], "again_s": min(seconds[1:])}
    return Measure(f"table of {len(rows):,} routers loaded again", min(seconds[1:]), 1.0, "lower", "s", figures)


def acceptance() -> Measure:
    """(b) From the request to the 202, against a hand-written view that calls `task.delay()` and returns 202.

    The hand-written view does not use the database; the limit applies to persistent connections.
    """
    bare, brokered = without_broker(), harness.handler()

    def pairs() -> list[tuple[float, float]]:
        return harness.paired(
            lambda: harness.call(bare, harness.environ("POST", "/by-hand/", amount="5.00"), 202),
            lambda: harness.call(brokered, harness.environ("POST", "/pay/", amount="5.00"), 202),
            rounds=100,
            each=10,
        )

    with harness.kept_connections():
        kept = pairs()
    connecting = pairs()
    return Measure(
        "accept to 202",
        statistics.median(broker / by_hand for by_hand, broker in kept),
        1.3,
        "lower",
        "times a view with task.delay()",
        {
            "by_hand_us": statistics.median(by_hand for by_hand, _ in kept) * 1e6,
            "broker_us": statistics.median(broker for _, broker in kept) * 1e6,
            "times_where_each_request_connects": statistics.median(broker / by_hand for by_hand, broker in connecting),
        },
    )


def end_to_end(requests: int = 2_000, blocks: int = 8) -> Measure:
    """(c) Requests queued, run and stored, against a stock Celery task with the same result backend.

    Both workers are up and alternate, a block of requests each, so that a slow minute of the machine affects both.
    """
    _clear()
    bare, brokered = without_broker(), harness.handler()
    stock = broker = 0.0
    with harness.worker(*STOCK_WORKER), harness.worker(*BROKER_WORKER):
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
    """From the first request to the last stored result, including the broker's ledger."""
    done_before = _done()
    started = time.perf_counter()
    _post(application, path, requests)
    harness.wait_until(lambda: _done() == done_before + requests and not _unfinished(), 120)
    return time.perf_counter() - started


def _done() -> int:
    return TaskResult.objects.filter(status="SUCCESS").count()


def _unfinished() -> bool:
    return DispatchRecord.objects.exclude(state=State.SUCCEEDED).exists()


def _post(application: WSGIHandler, path: str, requests: int) -> None:
    for _ in range(requests):
        harness.call(application, harness.environ("POST", path, amount="5.00"), 202)


def overtaking(backlog: int = 20_000, payments: int = 300) -> Measure:
    """(d) How long a payment waits behind a bulk backlog before it starts, against an idle system."""
    _clear()
    application = harness.handler()
    with harness.worker(*BROKER_WORKER):
        idle = _payment_waits(application, payments)
    _post(application, "/report/", backlog)
    with harness.worker(*BROKER_WORKER):
        _post(application, "/pay/", 4)
        busy = _payment_waits(application, payments)
        left = DispatchRecord.objects.filter(queue="bulk", state=State.QUEUED).count()
    if not left:
        raise RuntimeError("the backlog was gone before the payments were")
    figures = {
        "idle_p50_ms": harness.percentile(idle, 50) * 1e3,
        "idle_p99_ms": harness.percentile(idle, 99) * 1e3,
        "busy_p50_ms": harness.percentile(busy, 50) * 1e3,
        "busy_p99_ms": harness.percentile(busy, 99) * 1e3,
        "bulk_left": float(left),
    }
    ratio = figures["busy_p99_ms"] / figures["idle_p99_ms"]
    return Measure(f"a payment behind {backlog:,} bulk dispatches, p99", ratio, 3.0, "lower", "times idle", figures)


def _payment_waits(application: WSGIHandler, payments: int) -> list[float]:
    """Returns the seconds from accepted to started of consecutive payments."""
    mine = DispatchRecord.objects.filter(queue="payment", accepted_at__gte=timezone.now())
    for number in range(1, payments + 1):
        _post(application, "/pay/", 1)
        harness.wait_until(lambda expected=number: mine.filter(state=State.SUCCEEDED).count() == expected, 30)  # type: ignore[misc]
    return [(record.started_at - record.accepted_at).total_seconds() for record in mine if record.started_at]


def reserved(payments: int = 200) -> Measure:
    """(i) How long a payment waits while bulk tasks of one second occupy every process except its reserved one."""
    _clear()
    application = harness.handler()
    with harness.worker(*BROKER_WORKER, "--processes=4"):
        _post(application, "/second/", 600)
        harness.wait_until(lambda: DispatchRecord.objects.filter(state=State.RUNNING).count() == 3, 30)
        waits = _payment_waits(application, payments)
        left = DispatchRecord.objects.filter(queue="bulk", state=State.QUEUED).count()
    if not left:
        raise RuntimeError("the bulk tasks were gone before the payments were")
    p50, p99 = (harness.percentile(waits, percent) * 1e3 for percent in (50, 99))
    return Measure(
        "a payment with a process reserved, p99", p99, 100.0, "lower", "ms", {"p50_ms": p50, "bulk_left": float(left)}
    )


def ledger(rows: int = ledgers.ROWS, backlog: int = 100_000) -> Measure:
    """(j) Accept, claim and conclude with a million rows in the ledger, against an empty one; and a reaper's pass.

    Both are on PostgreSQL. First nothing is due; then there is a backlog.
    """
    with ledgers.ledgers(rows) as chosen, override_settings(REQUEST_BROKER=_kept_for(ledgers.DAYS + 1)):
        contenders = (partial(chosen.run, alias, ledgers.run_one) for alias in (ledgers.EMPTY, ledgers.FULL))
        pairs = harness.paired(*contenders, rounds=100, each=20)
        passes = {alias: chosen.run(alias, ledgers.slowest_pass) for alias in (ledgers.EMPTY, ledgers.FULL)}
        scans = ledgers.sequential_scans()
        ledgers.add_backlog(backlog)
        behind = chosen.run(ledgers.FULL, ledgers.slowest_pass)
        depth = chosen.run(ledgers.FULL, ledgers.seconds_to_measure)
        scans = ledgers.sequential_scans() - scans
    figures = {
        "empty_us": statistics.median(empty for empty, _ in pairs) * 1e6,
        "full_us": statistics.median(full for _, full in pairs) * 1e6,
        "reaper_empty_ms": passes[ledgers.EMPTY] * 1e3,
        "reaper_full_ms": passes[ledgers.FULL] * 1e3,
        f"reaper_{backlog:_}_queued_ms": behind * 1e3,
        f"depth_{backlog:_}_queued_ms": depth * 1e3,
        "sequential_scans": float(scans),
    }
    ratio = statistics.median(full / empty for empty, full in pairs)
    return Measure(f"accept, claim and finish, {rows:,} rows", ratio, 1.2, "lower", "times an empty ledger", figures)


def retention(rows: int = ledgers.ROWS) -> Measure:
    """(k) The longest wait while a tenth of the ledger is deleted, of another user of the ledger or for a row that the
    housekeeping has locked.
    """
    with ledgers.ledgers(rows) as chosen, override_settings(REQUEST_BROKER=_kept_for(ledgers.DAYS * 0.9)):
        chosen.alias = ledgers.FULL
        with ledgers.LedgerUser() as alone:
            time.sleep(5)
        started = time.perf_counter()
        with ledgers.timed_chunks() as chunks, ledgers.LedgerUser() as visitor:
            deleted = sum(housekeeping.keep_house())
            seconds = time.perf_counter() - started
    figures = {
        "deleted": float(deleted),
        "deleted_per_s": deleted / seconds,
        "chunk_p50_ms": statistics.median(chunks) * 1e3,
        "chunk_p99_ms": harness.percentile(chunks, 99) * 1e3,
        "chunk_longest_ms": max(chunks) * 1e3,
        "visitor_p99_ms": harness.percentile(visitor.seconds, 99) * 1e3,
        "visitor_longest_ms": max(visitor.seconds) * 1e3,
        "visitor_alone_longest_ms": max(alone.seconds) * 1e3,
    }
    longest = max(*chunks, *visitor.seconds) * 1e3
    return Measure(f"retention deletes {deleted:,} of {rows:,} rows", longest, 100.0, "lower", "ms locked", figures)


def _kept_for(days: float) -> dict[str, Any]:
    return {"QUEUES": {name: {"retention": days * DAY} for name in ledgers.QUEUES}}
