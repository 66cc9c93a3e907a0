"""The endpoints of dispatches: status and cancel, response, events; also health and the OpenAPI document.

Each is a view for WSGI. Those that wait also have a coroutine, so that under ASGI a waiting client occupies no thread.
Both make the same decisions and differ only in how they wait.
"""

from __future__ import annotations

import contextlib
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseFailure
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse

from broker_core.client_limits import Server
from broker_core.errors import DispatchNotFoundError
from broker_django.conf import conf
from broker_django.http import cache_headers, content_codings
from broker_django.identity import held_sessions, logged_in, ownership, users
from broker_django.identity.owners import owner_of
from broker_django.ledger import ledger, tokens
from broker_django.tracking import holding, waiting
from broker_django.tracking.answers import (
    await_until_done,
    status_document,
    status_response,
    stored_response,
    wait_until_done,
)
from broker_django.tracking.cancellation import cancel
from broker_django.tracking.endpoints import endpoint
from broker_django.tracking.watcher import UnwatchedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.client_limits import Guest
    from broker_core.dispatches import Dispatch
    from broker_django.tracking.endpoints import View

    Answer = Callable[[HttpRequest, Dispatch], HttpResponseBase]

EVENTS_LIFETIME = 300.0
"""Seconds after which an event stream ends; the client reconnects."""
KEEP_ALIVE = 15.0
"""Seconds without an event after which a comment is sent. It also detects that the client has gone."""


def _own_dispatch(request: HttpRequest, token: str) -> Dispatch:
    """Returns the dispatch. Raises DispatchNotFoundError if the token is invalid, or the dispatch belongs to others."""
    with contextlib.suppress(DispatchNotFoundError):
        dispatch = ledger.find(tokens.read(token))
        if dispatch is not None and ownership.owns(request, dispatch):
            return dispatch
    raise _not_found(request)


def _not_found(request: HttpRequest) -> DispatchNotFoundError:
    """Returns the same error for both causes. It reads session and user, so that Vary and cookies are the same, too."""
    session = logged_in.session_of(request)
    if session is not None:
        session.get(logged_in.LOGGED_IN)
    owner_of(getattr(request, "user", None))
    return DispatchNotFoundError("there is no such dispatch, or it is not yours")


def _may_listen(dispatch: Dispatch) -> bool:
    """Whether the user's account is still active. Raises UnwatchedError if the database does not answer."""
    try:
        return not dispatch.user or users.may_act(dispatch.user)
    except DatabaseFailure as error:
        raise UnwatchedError("the ledger cannot be read") from error


def wait_seconds(request: HttpRequest) -> float:
    """Returns the `wait` parameter: seconds to hold the request, at most `MAX_WAIT`; 0 if it is invalid."""
    text = request.GET.get("wait", "")
    return float(min(int(text), conf.MAX_WAIT)) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


class _Poll:
    """A request for one dispatch, before and after its wait."""

    def __init__(self, request: HttpRequest, token: str) -> None:
        self.request = request
        self.dispatch = _own_dispatch(request, token)
        asks = request.method != "DELETE" and not self.dispatch.state.done
        self.seconds = wait_seconds(request) if asks else 0.0
        if self.seconds:
            self._carrier = held_sessions.save(request)

    def respond(self, answer: Answer) -> HttpResponseBase:
        if not self.seconds:
            response = answer(self.request, self.dispatch)
            held_sessions.keep_cookie(self.request, response)
            return response
        if self.dispatch.user and not users.may_act(self.dispatch.user):
            raise _not_found(self.request)  # the account was closed meanwhile
        held_sessions.restore(self.request)
        response = answer(self.request, self.dispatch)
        held_sessions.add_cookies(self.request, response, self._carrier)
        return response


def _polled(methods: tuple[str, ...], answer: Answer) -> View:
    """Returns an endpoint with a `wait` parameter."""

    def view(request: HttpRequest, token: str) -> HttpResponseBase:
        poll = _Poll(request, token)
        if poll.seconds:
            poll.dispatch = wait_until_done(request, poll.dispatch, poll.seconds)
        return poll.respond(answer)

    async def coroutine(request: HttpRequest, token: str) -> HttpResponseBase:
        poll = await sync_to_async(_Poll)(request, token)
        if poll.seconds:
            poll.dispatch = await await_until_done(request, poll.dispatch, poll.seconds)
        return await sync_to_async(poll.respond)(answer)

    return endpoint(methods, view, coroutine)


def _task(request: HttpRequest, dispatch: Dispatch) -> HttpResponse:
    """Returns the status document, after up to N seconds with `?wait=N`. DELETE cancels the dispatch."""
    if request.method != "DELETE":
        return status_response(request, dispatch)
    cancel(dispatch)
    return status_response(request, ledger.find(dispatch.id) or dispatch, 202)


def _response(request: HttpRequest, dispatch: Dispatch) -> HttpResponseBase:
    """Returns the stored response, verbatim; 202 while the dispatch is not done; 410 if it has no response."""
    if not dispatch.state.done:
        return status_response(request, dispatch, 202)
    answer = stored_response(dispatch)
    if not ownership.may_have_cookies(request, dispatch):
        ownership.without_cookies(answer)
    if dispatch.method == "HEAD" and request.method == "GET" and answer.has_header("Content-Length"):
        answer["Content-Length"] = str(len(answer.content))  # type: ignore[attr-defined] # the view answered HEAD, with the length for a GET
    content_codings.decode_for(request, answer, conf.MAX_RESPONSE_SIZE)
    cache_headers.forbid_shared_caching(answer)
    return answer


task = _polled(("GET", "HEAD", "DELETE"), _task)
response = _polled(("GET", "HEAD"), _response)


# Events


def _events(request: HttpRequest, token: str) -> HttpResponseBase:
    """Returns state changes as server-sent events, for as long as a thread may be held, perhaps not at all."""
    dispatch, here, guest = _listener(request, token)
    return _stream(request, _changes(dispatch, here, guest))


async def _async_events(request: HttpRequest, token: str) -> HttpResponseBase:
    """Returns state changes as server-sent events, until the dispatch is done."""
    dispatch, here, guest = await sync_to_async(_listener)(request, token)
    return _stream(request, _async_changes(dispatch, here, guest))


def _listener(request: HttpRequest, token: str) -> tuple[Dispatch, str, Guest]:
    dispatch = _own_dispatch(request, token)
    return dispatch, tokens.status_url(request, dispatch.id, dispatch.accepted_at), holding.guest(request, dispatch)


def _stream(request: HttpRequest, content: Any) -> StreamingHttpResponse:
    """Prevent middleware from compressing the stream: under WSGI that would delay each event until later ones."""
    request.META.pop("HTTP_ACCEPT_ENCODING", None)
    vars(request).pop("headers", None)  # Django caches them
    answer = StreamingHttpResponse(content, content_type="text/event-stream")
    answer["X-Accel-Buffering"] = "no"
    held_sessions.keep_cookie(request, answer)
    return answer


def _changes(dispatch: Dispatch, here: str, guest: Guest) -> Iterator[str]:
    seconds = min(conf.MAX_WAIT, EVENTS_LIFETIME) if guest.server is Server.THREADS else 0.0
    with holding.hold(guest, seconds) as allowed, contextlib.suppress(UnwatchedError):
        stream = _EventStream(dispatch, here, allowed)
        yield stream.state()
        while stream.is_open:
            changed = waiting.wait(dispatch.id, stream.pause, stream.is_changed)
            if changed is not None and not _may_listen(changed):
                return
            yield stream.update(changed)
    yield from stream.ending()


async def _async_changes(dispatch: Dispatch, here: str, guest: Guest) -> AsyncIterator[str]:
    with holding.hold(guest, EVENTS_LIFETIME) as allowed, contextlib.suppress(UnwatchedError):
        stream = _EventStream(dispatch, here, allowed)
        yield stream.state()
        while stream.is_open:
            changed = await waiting.async_wait(dispatch.id, stream.pause, stream.is_changed)
            if changed is not None and not await sync_to_async(_may_listen)(changed):
                return
            yield stream.update(changed)
    for field in stream.ending():
        yield field


class _EventStream:
    """An event stream of one dispatch. It ends after this many seconds."""

    def __init__(self, dispatch: Dispatch, here: str, seconds: float) -> None:
        self._dispatch = dispatch
        self._here = here
        self._ends = time.monotonic() + seconds

    @property
    def is_open(self) -> bool:
        return not self._dispatch.state.done and self.pause > 0

    @property
    def pause(self) -> float:
        return min(self._ends - time.monotonic(), KEEP_ALIVE)

    def is_changed(self, dispatch: Dispatch) -> bool:
        return (dispatch.state, dispatch.attempts) != (self._dispatch.state, self._dispatch.attempts)

    def state(self) -> str:
        document = json.dumps(status_document(self._dispatch, self._here))
        return f"event: state\nid: {self._dispatch.state}\ndata: {document}\n\n"

    def update(self, changed: Dispatch | None) -> str:
        if changed is None:
            return ": keep-alive\n\n"
        self._dispatch = changed
        return self.state()

    def ending(self) -> list[str]:
        """Returns when to connect again, or nothing if the dispatch is done."""
        return [] if self._dispatch.state.done else [f"retry: {int(conf.POLL_INTERVAL * 1000)}\n\n"]


events = endpoint(("GET",), _events, _async_events)


# The site


def _health(_request: HttpRequest) -> HttpResponse:
    """Returns 200 if the ledger's database answers, else 503."""
    try:
        ledger.ping()
    except ledger.failures:
        return JsonResponse({"status": "fail", "database": "unreachable"}, status=503)
    return JsonResponse({"status": "pass"})


def _openapi(request: HttpRequest) -> HttpResponse:
    """Returns the OpenAPI document, with the prefix of the included URLconf as server."""
    mounted = request.META.get("SCRIPT_NAME", "").rstrip("/") + request.path_info.removesuffix("/openapi.json")
    document = {**_document(), "servers": [{"url": mounted or "/"}]}
    return JsonResponse(document, content_type="application/vnd.oai.openapi+json")


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(__file__).with_name("openapi.json").read_bytes())
    return document


health = endpoint((), _health)
openapi = endpoint((), _openapi)
