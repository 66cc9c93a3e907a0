"""The two decisions about a request, in one place that a project can put its own in."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from broker_django import classification
from broker_django.conf import conf
from broker_django.routing import choice

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_core.policies import Decision
    from broker_core.routing import Route
    from broker_django.context import RequestContext


class Dispatcher:
    """Decides by the rows, decorators and rules. `REQUEST_BROKER["DISPATCHER"]` names a subclass that decides in code.

    One is made for a process. Its methods are called for every request, with the request as the view would get it:
    under ASGI in the event loop, unless routers or rules read the user, so they must not block there.
    """

    def route(self, request: HttpRequest) -> Route | None:
        """Where the request goes before its view is resolved: a redirect, a proxy, a queue; None for nowhere else."""
        return choice.find(request)

    def classify(self, request: HttpRequest, view: Any) -> Decision | None:
        """Whether the view runs later, and on which queue; None where the broker leaves it alone."""
        return classification.classify(request, view)


def dispatcher() -> Dispatcher:
    """The one that decides. Raises ImportError if there is no class that DISPATCHER names."""
    return _made(conf.DISPATCHER)


@lru_cache(maxsize=8)
def _made(path: str) -> Dispatcher:
    made: Dispatcher = import_string(path)()
    return made


def decide(request: HttpRequest, view: Any) -> Decision | None:
    """Whether this view runs now or later, for this request, whose URL is resolved; None if the broker leaves it alone.

    It is asked once, and kept on `request.broker`. The broker's own views are always left alone.
    """
    context: RequestContext = request.broker  # type: ignore[attr-defined]
    if context.view is not view:
        context.decision = None if choice.is_own(request.resolver_match) else _asked(request, view)
        context.view = view
    return context.decision


def _asked(request: HttpRequest, view: Any) -> Decision | None:
    return classification.settled(request, dispatcher().classify(request, view))


def route_of(request: HttpRequest) -> Route | None:
    """Where a router sends this request; None if its own view is asked. It is asked once, and kept on `request.broker`.

    Costs no query unless a condition reads the user.
    """
    context: RequestContext = request.broker  # type: ignore[attr-defined]
    if context.routed or context.replayed:
        return context.route
    context.routed = True
    context.route = dispatcher().route(request)
    return context.route
