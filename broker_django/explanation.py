"""Why a request goes where it goes: what the admin's "Try a request" and `broker_explain` tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory
from django.urls import Resolver404, resolve

from broker_core.routing import Action, Match, Route, Router, verdicts
from broker_django.classification import values
from broker_django.conf import conf
from broker_django.context import RequestContext
from broker_django.decorators import annotation_of
from broker_django.routing import route_of, target_of
from broker_django.table import tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.http import HttpRequest

    from broker_core.policies import Decision

VISITORS = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A router or a rule that was asked: its name, what it is about, and why it does not take the request."""

    name: str
    about: str
    why_not: str = ""


@dataclass(slots=True)
class Explanation:
    """What happens to one request, in the order in which it is decided. `outcome` is the sentence that sums it up."""

    outcome: str = ""
    routers: list[Asked] = field(default_factory=list)
    rules: list[Asked] = field(default_factory=list)
    shares: dict[str, int] = field(default_factory=dict)
    """How many of a thousand visitors each destination of the router gets, by url."""
    view: str = ""
    decorator: str = ""
    decision: Decision | None = None


def explain(method: str, path: str, headers: Mapping[str, str], user: Any = None) -> Explanation:
    """What would happen to this request; `path` may have a query. Nothing is run, queued or written."""
    request = _request(method, path, headers, user)
    told = Explanation()
    match = _routers(request, told)
    route = route_of(request, match) if match else None
    if route is not None and route.router.action is not Action.QUEUE:
        target = target_of(request, route)
        told.outcome = f"Router {route.router.code} answers: {_answer(route)} {target}"
        return told
    request.broker.routed, request.broker.route = True, route  # type: ignore[attr-defined]
    try:
        found = resolve(request.path_info)
    except Resolver404:
        told.outcome = "No view has this URL: 404."
        return told
    told.view = f"{getattr(found.func, '__module__', '')}.{getattr(found.func, '__qualname__', found.func)}"
    annotation = annotation_of(found.func, request.method or "")
    if annotation is not None:
        told.decorator = f"{annotation.mode} {annotation.queue or ''}".strip()
    elif route is None:
        _rules(request, told)
    told.decision = conf.dispatcher.classify(request, found.func)
    told.outcome = _outcome(told.decision)
    return told


def _request(method: str, path: str, headers: Mapping[str, str], user: Any) -> HttpRequest:
    request = RequestFactory(headers=dict(headers)).generic(method.upper(), path)
    request.user = user or AnonymousUser()
    request.broker = RequestContext()  # type: ignore[attr-defined]
    return request


def _routers(request: HttpRequest, told: Explanation) -> Match | None:
    taken = None
    candidates = tables.current().candidates(request.path_info)
    for match, why_not in verdicts(candidates, request.method or "", lambda names: values(request, names)):
        router = match.router
        if taken is not None:
            why_not = f"router {taken.router.code} comes first"  # noqa: PLW2901 - the better reason
        elif router.action is Action.PROXY and not conf.ENABLE_PROXY_ROUTING:
            why_not = "proxies are switched off: see ENABLE_PROXY_ROUTING"  # noqa: PLW2901
        told.routers.append(Asked(router.code, f"{router.source.text} -> {router.action}, rank {router.rank}", why_not))
        if not why_not:
            taken = match
            told.shares = _shares(router)
    return taken


def _shares(router: Router) -> dict[str, int]:
    picked = [router.pick(f"visitor {number}") for number in range(VISITORS)]
    return {destination.url: picked.count(destination) for destination in router.destinations}


def _rules(request: HttpRequest, told: Explanation) -> None:
    classifier = conf.classifier
    for number, why_not in classifier.verdicts(lambda names: values(request, names)):
        rule = classifier.rules[number]
        told.rules.append(Asked(f"rule {number}", f"{rule.when.text} -> {rule.mode} {rule.queue}", why_not))
        if not why_not:
            return


def _answer(route: Route) -> str:
    return "a proxy to" if route.router.action is Action.PROXY else f"{route.router.action} to"


def _outcome(decision: Decision | None) -> str:
    if decision is None:
        return "The view runs now, as if the broker were not there."
    if not decision.queued:
        return f"The view runs now, in the class {decision.queue} ({decision.reason})."
    held = f"; the client is held up to {decision.wait:g} s" if decision.wait else ""
    return f"Queued on {decision.queue} ({decision.reason}){held}."
