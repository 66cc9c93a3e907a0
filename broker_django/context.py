"""The broker's data about a request, which views read as `request.broker`."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from django.http.response import HttpResponseBase

    from broker_core.policies import Decision
    from broker_core.routing import Route

REPLAY_KEY = "request_broker.replay"
"""The key in `request.META` that marks a replay. Its value is an object, so no header field can set it."""

EAGER_RESPONSES: ContextVar[list[HttpResponseBase] | None] = ContextVar("request_broker.witness", default=None)
"""The list to which an eager replay adds the view's response, if a client waits for it."""


@dataclass(slots=True)
class RequestContext:
    """`request.broker`.

    replayed: whether a worker runs the request. id, queue, attempt (from 1), accepted_at: of the dispatch, in a replay.
    reached: whether the replay has reached the view that the request was accepted for. It stays False if a middleware
    answers instead, or if the URL leads elsewhere.

    decision: how `view` was classified; None if the broker leaves it alone. unknown_queue: the queue that a DISPATCHER
    named although it is not configured, so that the view is left alone. routed: whether routers were evaluated.
    route: the route that a router chose. new_visitor: the id of a visitor that gets a sticky cookie. stored: whether
    the response comes from the store, and so has passed all middleware. held: the maximum seconds that the client
    waited. answers: what the routers and the rules answered, by the method of `Dispatcher` that asked them; None unless
    the request is explained.
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
    answers: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What the URL resolved to."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(slots=True)
class Replay:
    """A replay in progress, with fields of its message: `user`, `view_user`, `view`, `route`, `tenant`, `principal` and
    `accepted_at`.

    The middleware sets `exception` to what the view raised, and `refusal` to why the view did not run; it calls
    `on_error`, if set, with the exception. admitted: the view's own checks were made before acceptance. entered: the
    request reached the broker's middleware. reached: it reached its view. elsewhere: the other view that it reached.
    eager: no worker runs it.
    """

    id: uuid.UUID
    queue: str
    attempt: int
    user: str | None
    view_user: str | None = None
    admitted: bool = False
    exception: str = ""
    on_error: Callable[[BaseException], None] | None = None
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
        """The view that the request was accepted for, with its URL pattern."""
        return by(self.view or "a view", self.route)

    def known(self, what: str) -> Any:
        """Returns a value of the principal in the message, by its name in `principals`, or None."""
        return self.principal.get(what) if isinstance(self.principal, dict) else None

    def is_for(self, view: str, route: str) -> bool:
        """Whether the request was accepted for this view, or for any view if the message names none.

        The URL pattern must capture the same names: a catch-all pattern may lead to the same view with other arguments.
        """
        return not self.view or (view == self.view and (not self.route or _captured(route) == _captured(self.route)))

    def context(self) -> RequestContext:
        """Returns `request.broker` for the replayed request."""
        return RequestContext(
            replayed=True, id=self.id, queue=self.queue, attempt=self.attempt, accepted_at=self.accepted_at
        )


_CAPTURED = re.compile(r"<(?:[^<>:]*:)?([^<>]*)>")


def _captured(route: str) -> list[str]:
    """Returns the names that a pattern such as `/orders/<int:pk>/` captures."""
    return sorted(_CAPTURED.findall(route))


def by(view: str, route: str) -> str:
    """Returns the name of a view with its URL pattern, for messages."""
    return f"{view} by {route}" if route else view


class BrokerRequest(HttpRequest):
    """For annotations only: a request as views get it after the broker's middleware. No request is of this class."""

    broker: RequestContext


def replay_of(request: HttpRequest) -> Replay | None:
    """Returns the replay that this request belongs to, or None for a client's own request."""
    mark = request.META.get(REPLAY_KEY)
    return mark if isinstance(mark, Replay) else None
