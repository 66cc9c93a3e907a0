"""Why a request goes where it goes: what the admin's "Try a request" and `broker_explain` tell."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.apps import apps
from django.conf import settings
from django.core.exceptions import DisallowedHost, MiddlewareNotUsed
from django.middleware.common import CommonMiddleware
from django.test import RequestFactory
from django.urls import Resolver404, resolve
from django.utils.module_loading import import_string

from broker_core.errors import LoopDetectedError
from broker_core.routing import Action, Router, verdicts
from broker_django.admission.arrival import usual_host
from broker_django.annotations.decorated import annotation_of
from broker_django.annotations.view_names import view_name
from broker_django.classification import settled
from broker_django.conf import conf
from broker_django.context import RequestContext
from broker_django.dispatcher import dispatcher, route_of
from broker_django.identity import users
from broker_django.request_values import values
from broker_django.routing import choice, redirects
from broker_django.routing.table import tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from django.http import HttpRequest, HttpResponse
    from django.urls import ResolverMatch
    from django.utils.deprecation import MiddlewareMixin

    from broker_core.policies import Decision
    from broker_core.routing import Route

VISITORS = 1_000

M = TypeVar("M", bound="MiddlewareMixin")


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


def explain(
    method: str, path: str, headers: Mapping[str, str], user: Any = None, *, names_destinations: bool = True
) -> Explanation:
    """What would happen to this request; `path` may have a query. Nothing is run, queued or written.

    Without `names_destinations` it does not tell where a redirect or a proxy leads.
    """
    request = _request(method, path, headers, user)
    told = Explanation()
    _routers(request, told)
    told.outcome = _routed(request, names_destinations=names_destinations)
    if not names_destinations:
        told.shares = {}
    if told.outcome:
        return told
    try:
        found = resolve(request.path_info)
    except Resolver404:
        told.outcome = _without_view(request)
        return told
    told.view = view_name(found.func, request.method or "")
    told.outcome = _login(request, found)
    if told.outcome:
        return told
    if choice.is_ours(request):
        told.outcome = "The broker answers: its own URLs are neither routed nor queued."
        return told
    annotation = annotation_of(found.func, request.method or "")
    if annotation is not None:
        told.decorator = f"{annotation.mode} {annotation.queue or ''}".strip()
    elif route_of(request) is None:
        _rules(request, told)
    decided = dispatcher().classify(request, found.func)
    told.decision = settled(request, decided)
    if told.decision is None and decided is not None:
        told.outcome = f"The view runs now: there is no queue {decided.queue!r}."
    else:
        told.outcome = _outcome(told.decision) + _one_of(route_of(request))
    return told


def _routed(request: HttpRequest, *, names_destinations: bool) -> str:
    """What the router answers that takes the request; empty where its view is asked."""
    route = route_of(request)
    if route is None or route.router.action is Action.QUEUE:
        return ""
    code = route.router.code
    if route.router.action is Action.PROXY:
        to = f" to {redirects.target_of(request, route)}" if names_destinations else ""
        return f"Router {code} answers: a proxy{to}{_one_of(route)}"
    try:
        response = redirects.redirect(request, route)
    except LoopDetectedError as error:
        return f"Router {code} answers: {error.status}, {error}"
    if response is None:
        return ""
    to = f" to {response['Location']}" if names_destinations else ""
    return f"Router {code} answers: {response.status_code}{to}{_one_of(route)}"


def _without_view(request: HttpRequest) -> str:
    for middleware in _loaded(CommonMiddleware):
        if middleware.should_redirect_with_slash(request):
            slashed = request.get_full_path(force_append_slash=True)
            return f"{_title(middleware)} answers: {middleware.response_redirect_class.status_code} to {slashed}"
    return "No view has this URL: 404."


def _login(request: HttpRequest, found: ResolverMatch) -> str:
    """What a middleware answers that lets nobody pass who is not logged in; empty if it lets the request pass."""
    if not apps.is_installed("django.contrib.auth"):
        return ""
    from django.contrib.auth.middleware import LoginRequiredMiddleware  # noqa: PLC0415 - needs its app

    for middleware in _loaded(LoginRequiredMiddleware):
        try:
            response = middleware.process_view(request, found.func, found.args, found.kwargs)
        except DisallowedHost as error:
            return f"The request is refused: 400, {error}"
        if response is not None:
            return f"{_title(middleware)} answers: {response.status_code} to {response['Location']}"
    return ""


def _loaded(middleware_class: type[M]) -> Iterator[M]:
    """What the project has of this class of Django's, made for this question."""
    for path in settings.MIDDLEWARE:
        named = import_string(path)
        if isinstance(named, type) and issubclass(named, middleware_class):
            with suppress(MiddlewareNotUsed):
                yield named(_never_asked)


def _never_asked(request: HttpRequest) -> HttpResponse:
    raise NotImplementedError


def _title(middleware: object) -> str:
    return type(middleware).__name__


def _one_of(route: Route | None) -> str:
    """Another visitor may go elsewhere."""
    number = len(route.router.weights) if route is not None else 1
    return f" (one of {number}, by weight)" if number > 1 else ""


def _request(method: str, path: str, headers: Mapping[str, str], user: Any) -> HttpRequest:
    request = RequestFactory(headers=dict(headers)).generic(method.upper(), path)
    if not any(name.lower() == "host" for name in headers):
        request.META["SERVER_NAME"] = usual_host()
    request.user = user or users.anonymous()
    request.broker = RequestContext()  # type: ignore[attr-defined]
    return request


def _routers(request: HttpRequest, told: Explanation) -> None:
    """The rows that are asked, whatever a DISPATCHER of the project makes of them."""
    taken = ""
    candidates = tables.current().candidates(request.path_info)
    read = partial(values, request)
    for match, why_not in verdicts(candidates, request.method or "", read, choice.switched_off()):
        router = match.router
        reason = f"router {taken} comes first" if taken else why_not
        told.routers.append(Asked(router.code, f"{router.source.text} -> {router.action}, rank {router.rank}", reason))
        if not reason:
            taken = router.code
            told.shares = _shares(router)


def _shares(router: Router) -> dict[str, int]:
    picked = [router.pick(f"visitor {number}") for number in range(VISITORS)]
    return {destination.url: picked.count(destination) for destination in router.destinations}


def _rules(request: HttpRequest, told: Explanation) -> None:
    classifier = conf.classifier
    for number, (rule, why_not) in enumerate(classifier.verdicts(partial(values, request))):
        told.rules.append(Asked(f"rule {number}", f"{rule.when.text} -> {rule.mode} {rule.queue}", why_not))
        if not why_not:
            return


def _outcome(decision: Decision | None) -> str:
    if decision is None:
        return "The view runs now, as if the broker were not there."
    if not decision.queued:
        return f"The view runs now, in the class {decision.queue} ({decision.reason})."
    held = f"; the client is held up to {decision.wait:g} s" if decision.wait else ""
    return f"Queued on {decision.queue} ({decision.reason}){held}."
