"""Measurements of what a request costs in a web process. Each returns its figures and compares a value with a limit."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import redis
from django.conf import settings
from django_celery_results.models import TaskResult

from benchmarks import harness
from benchmarks.harness import Contender
from broker_core import routing
from broker_core.routing import RoutingTable
from broker_core.routing.sources import Source
from broker_django.models import Destination, DispatchRecord, Router
from broker_django.routing.table import NONE, load, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.core.handlers.wsgi import WSGIHandler


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


def clear() -> None:
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
