"""What a view can see of the broker: `request.broker`."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uuid

    from django.http import HttpRequest
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

    replayed: whether a worker runs it. id, queue, attempt (from 1): of the dispatch, when replayed.
    decision: what classification said about `view`, when it was asked; None where the view is left alone.
    routed: whether routers were asked. route: where one of them sends the request. new_visitor: whom a router wants to
    know again by a cookie.
    """

    replayed: bool = False
    id: uuid.UUID | None = None
    queue: str | None = None
    attempt: int = 0
    decision: Decision | None = None
    view: Any = None
    routed: bool = False
    route: Route | None = None
    new_visitor: str = ""


@dataclass(slots=True)
class Replay:
    """A replay in progress. `user` and `view_user` are those of its message.

    The middleware tells the worker through `exception` what the view raised, and through `refusal` why the view was
    not run at all. `admitted` tells the view that its own checks were made at the door.
    """

    id: uuid.UUID
    queue: str
    attempt: int
    user: str | None
    view_user: str | None = None
    admitted: bool = False
    exception: str = ""
    refusal: str = ""


def context_of(replay: Replay) -> RequestContext:
    """What the replayed request has as `request.broker` from the first middleware on."""
    return RequestContext(replayed=True, id=replay.id, queue=replay.queue, attempt=replay.attempt)


def user_key(user: Any) -> str | None:
    """The primary key as text, None where there is no user or an anonymous one. It may be of a project's own kind."""
    key = getattr(user, "pk", None) if getattr(user, "is_authenticated", False) else None
    return None if key is None else str(key)


def replay_of(request: HttpRequest) -> Replay | None:
    """The replay that this request belongs to, None for a client's own request."""
    mark = request.META.get(REPLAY_KEY)
    return mark if isinstance(mark, Replay) else None
