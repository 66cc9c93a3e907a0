"""Measurements with workers, and of a ledger with a million rows."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from django.test.utils import override_settings
from django.utils import timezone
from django_celery_results.models import TaskResult

from benchmarks import harness, ledgers
from benchmarks.measures import Measure, clear, without_broker
from broker_core.dispatches import State
from broker_core.policies import DAY
from broker_django.ledger import retention as housekeeping
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from django.core.handlers.wsgi import WSGIHandler

BROKER_WORKER = ("django", "broker_worker", "--concurrency=2", "--loglevel=INFO", "--noreload", "--no-task-events")
STOCK_WORKER = ("celery", "-A", "benchmarks.stock", "worker", "--concurrency=2", "--loglevel=INFO")
WARM_UP = 20


def end_to_end(requests: int = 2_000, blocks: int = 8) -> Measure:
    """(c) Requests queued, run and stored, against a stock Celery task with the same result backend.

    Both workers are up and alternate, a block of requests each, so that a slow minute of the machine affects both.
    """
    clear()
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
    clear()
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
    clear()
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
        chosen.choose(ledgers.FULL)
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
