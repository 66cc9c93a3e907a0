"""The two decisions about a request, in one place that a project can put its own in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_django import classification
from broker_django.routing import choice

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_core.policies import Decision
    from broker_core.routing import Route


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
        return classification.decide(request, view)
