"""The two decisions about a request: its route, and when it runs. A project can replace both."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from django.utils.module_loading import import_string

from broker_django import classification
from broker_django.classification import NOWHERE
from broker_django.conf import conf
from broker_django.routing import choice

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_core.policies import Decision
    from broker_core.routing import Route
    from broker_django.context import RequestContext

T = TypeVar("T")


class Dispatcher:
    """Decides by the rows, decorators and rules. `REQUEST_BROKER["DISPATCHER"]` names a subclass that decides in code.

    There is one instance per process. Its methods are called for every request, with the request as the view would get
    it: under ASGI in the event loop, unless routers or rules read the user, so they must not block there.
    """

    def route(self, request: HttpRequest) -> Route | None:
        """Returns the redirect, proxy or queue that the request is sent to, or None. The view is not resolved yet."""
        return _kept(request, "route", choice.find(request))

    def classify(self, request: HttpRequest, view: Any) -> Decision | None:
        """Returns whether the view runs later, and on which queue; None if the broker leaves it alone."""
        return _kept(request, "classify", classification.classify(request, view))


def _kept(request: HttpRequest, method: str, answer: T) -> T:
    """Keep the answer for an explanation of the request."""
    answers = getattr(request, "broker", NOWHERE).answers
    if answers is not None:
        answers[method] = answer
    return answer


def dispatcher() -> Dispatcher:
    """Returns the dispatcher of this process. Raises ImportError if the class in DISPATCHER does not exist."""
    return _made(conf.DISPATCHER)


@lru_cache(maxsize=8)
def _made(path: str) -> Dispatcher:
    made: Dispatcher = import_string(path)()
    return made


def decide(request: HttpRequest, view: Any) -> Decision | None:
    """Returns whether this view runs now or later for this request; None if the broker leaves it alone.

    The URL has to be resolved. Decided once, and kept on `request.broker`. The broker never queues its own views.
    """
    context: RequestContext = request.broker  # type: ignore[attr-defined]
    if context.view is not view:
        context.decision = None if choice.is_own(request.resolver_match) else _ask_dispatcher(request, view)
        context.view = view
    return context.decision


def _ask_dispatcher(request: HttpRequest, view: Any) -> Decision | None:
    return classification.completed(request, dispatcher().classify(request, view))


def route_of(request: HttpRequest) -> Route | None:
    """Returns the route that a router chose; None if its own view answers. Kept on `request.broker`.

    Costs no query unless a condition reads the user.
    """
    context: RequestContext = request.broker  # type: ignore[attr-defined]
    if context.routed or context.replayed:
        return context.route
    context.routed = True
    context.route = dispatcher().route(request)
    return context.route
