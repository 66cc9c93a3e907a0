"""What a view can see of the broker: `request.broker`."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable
    from datetime import datetime

    from django.http.response import HttpResponseBase

    from broker_core.policies import Decision
    from broker_core.routing import Route

REPLAY_KEY = "request_broker.replay"
"""The key in `request.META` that marks a replay. It holds an object: no header field can set it."""

WITNESS: ContextVar[list[HttpResponseBase] | None] = ContextVar("request_broker.witness", default=None)
"""Where an eager replay leaves the response that its view made, for the client that is held for it."""


@dataclass(slots=True)
class RequestContext:
    """The broker's side of a request.

    replayed: whether a worker runs it. id, queue, attempt (from 1), accepted_at: of the dispatch, when replayed.
    reached: whether a replay has come to the view that the request was accepted for. If a middleware answers instead,
    or the URL leads elsewhere, it stays False.
    decision: what classification said about `view`, when it was asked; None where the view is left alone.
    unknown_queue: the queue that a DISPATCHER has named and that is not configured, so that the view is left alone.
    routed: whether routers were asked. route: where one of them sends the request. new_visitor: whom a router wants to
    know again by a cookie.
    stored: whether what the middleware around the broker is given was stored, so that it has been through all of them.
    held: for how many seconds the client was held, at most.
    """

    replayed: bool = False
    id: uuid.UUID | None = None
    queue: str | None = None
    attempt: int = 0
    decision: Decision | None = None
    view: Any = None
    unknown_queue: str = ""
    routed: bool = False
    route: Route | None = None
    new_visitor: str = ""
    accepted_at: datetime | None = None
    reached: bool = False
    stored: bool = False
    held: float = 0.0


@dataclass(slots=True)
class Replay:
    """A replay in progress. `user`, `view_user`, `view`, `route`, `tenant`, `principal` and `accepted_at` are those of
    its message.

    The middleware tells the worker through `exception` what the view raised, and through `refusal` why the view was
    not run at all; `note_error` gets what it raised, if anybody wants it. `admitted` tells the view that its own checks
    were made at the door. `entered` says that the request came to the broker's middleware, `reached` that it came to
    its view, `elsewhere` where it came to instead, and `eager` that no worker runs it.
    """

    id: uuid.UUID
    queue: str
    attempt: int
    user: str | None
    view_user: str | None = None
    admitted: bool = False
    exception: str = ""
    note_error: Callable[[BaseException], None] | None = None
    refusal: str = ""
    view: str = ""
    tenant: str = ""
    principal: Any = None
    accepted_at: datetime | None = None
    entered: bool = False
    reached: bool = False
    elsewhere: str = ""
    eager: bool = False
    route: str = ""

    @property
    def wanted(self) -> str:
        """The view that it was accepted for, with the pattern of its URL."""
        return by(self.view or "a view", self.route)

    def known(self, what: str) -> Any:
        """What the message says of who sent the request, beside the keys of users: a value that `principals` names."""
        return self.principal.get(what) if isinstance(self.principal, dict) else None

    def is_for(self, view: str, route: str) -> bool:
        """Whether it was accepted for this view, by a pattern that captures the same. A pattern that catches whatever
        comes may lead to the same view, but hands it other arguments.

        If the message names no view, it is for any.
        """
        return not self.view or (view == self.view and (not self.route or _captured(route) == _captured(self.route)))

    def context(self) -> RequestContext:
        """`request.broker` of the replayed request."""
        return RequestContext(True, self.id, self.queue, self.attempt, accepted_at=self.accepted_at)  # noqa: FBT003


_CAPTURED = re.compile(r"<(?:[^<>:]*:)?([^<>]*)>")


def _captured(route: str) -> list[str]:
    """The names of what a pattern such as `/orders/<int:pk>/` captures."""
    return sorted(_CAPTURED.findall(route))


def by(view: str, route: str) -> str:
    """How a view, and the pattern that leads to it, are told."""
    return f"{view} by {route}" if route else view


class BrokerRequest(HttpRequest):
    """A request as views have it behind the broker's middleware, for annotations: there is no such object."""

    broker: RequestContext


def replay_of(request: HttpRequest) -> Replay | None:
    """The replay that this request belongs to, None for a client's own request."""
    mark = request.META.get(REPLAY_KEY)
    return mark if isinstance(mark, Replay) else None
