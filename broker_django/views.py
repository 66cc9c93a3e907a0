"""The endpoints of dispatches: status and cancel, response, events; health, and what describes them all.

They are coroutines: under ASGI a client that waits holds no thread that other requests need. Under WSGI Django runs
them in the request's own thread.
"""

from __future__ import annotations

import functools
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import Error as DatabaseFailure
from django.db import connection
from django.http import HttpResponse, HttpResponseNotAllowed, JsonResponse, StreamingHttpResponse
from django.utils.cache import patch_cache_control
from django.views.decorators.csrf import csrf_exempt

from broker_core.errors import BrokerError, DispatchNotFoundError, UnavailableError
from broker_django import ledger, rest, sessions, tokens
from broker_django.answers import (
    await_until_done,
    status_document,
    status_response,
    stored_response,
)
from broker_django.cancellation import cancel
from broker_django.conf import conf
from broker_django.context import user_key
from broker_django.http import problem
from broker_django.notifications import AsyncWatch, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_django.models import DispatchRecord

    Endpoint = Callable[[HttpRequest, DispatchRecord], Coroutine[Any, Any, HttpResponseBase]]
    View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]

EVENTS_LIFETIME = 300.0
"""Seconds after which an event stream ends; the client reconnects."""
KEEP_ALIVE = 15.0
"""Seconds of silence on an event stream after which a comment is sent. It also finds out that the client has gone."""


def owns(request: HttpRequest, record: DispatchRecord) -> bool:
    """Whether the dispatch belongs to who asks: the same user, or the same client with the same credential."""
    if not record.user or record.credential in sessions.credentials(request):
        return True
    asks = user_key(getattr(request, "user", None)) or user_key(rest.authenticate(request))
    return asks == record.user


def _owned(request: HttpRequest, token: str) -> DispatchRecord:
    """Raises DispatchNotFoundError for a token that was not issued here, and for anybody else's dispatch."""
    record = ledger.find(tokens.read(token))
    if record is None or not owns(request, record):
        raise DispatchNotFoundError("there is no such dispatch, or it is not yours")
    return record


def endpoint(*methods: str) -> Callable[[Endpoint], View]:
    """A view over an owned dispatch. Refusals are problem documents."""

    def decorate(function: Endpoint) -> View:
        @csrf_exempt  # the token is no ambient credential, and browsers ask before they send DELETE to another site
        @functools.wraps(function)
        async def view(request: HttpRequest, token: str) -> HttpResponseBase:
            if request.method not in methods:
                return HttpResponseNotAllowed(methods)
            try:
                return await function(request, await sync_to_async(_owned)(request, token))
            except DatabaseFailure:
                return problem(UnavailableError("the ledger cannot be read"))
            except BrokerError as error:
                return problem(error)

        return view

    return decorate


def _no_store(response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    return response


def wait_of(request: HttpRequest) -> float:
    """The `wait` parameter: seconds to hold the poll, at most `MAX_WAIT`; 0 for what is no number."""
    text = request.GET.get("wait", "")
    return float(min(int(text), conf.MAX_WAIT)) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


@endpoint("GET", "HEAD", "DELETE")
async def task(request: HttpRequest, record: DispatchRecord) -> HttpResponseBase:
    """The status document; with `?wait=N` when the dispatch is done or N seconds are over. DELETE cancels."""
    if request.method == "DELETE":
        return await sync_to_async(_cancel)(request, record)
    wait = wait_of(request)
    if wait and not record.current_state.done:
        record = await await_until_done(record.pk, wait) or record
    return status_response(request, record)


def _cancel(request: HttpRequest, record: DispatchRecord) -> HttpResponse:
    cancel(record)
    record.refresh_from_db(record._state.db, ["state", "finished_at"])
    return status_response(request, record, 202)


@endpoint("GET", "HEAD")
async def response(request: HttpRequest, record: DispatchRecord) -> HttpResponseBase:
    """The stored response, verbatim; 202 and the status document while there is none; 410 when there will be none."""
    wait = wait_of(request)
    if wait and not record.current_state.done:
        record = await await_until_done(record.pk, wait) or record
    if not record.current_state.done:
        return status_response(request, record, 202)
    return await sync_to_async(_owned_response)(request, record)


def _owned_response(request: HttpRequest, record: DispatchRecord) -> HttpResponseBase:
    """Only its owner may have it: a shared cache must not keep what the view let it keep at its own URL."""
    answer = stored_response(record)
    if not _may_have_cookies(request, record):
        answer.cookies.clear()
    if "public" in answer.get("Cache-Control", "") or "s-maxage" in answer.get("Cache-Control", ""):
        patch_cache_control(answer, private=True)
    return answer


def _may_have_cookies(request: HttpRequest, record: DispatchRecord) -> bool:
    """An anonymous client's cookies, such as those of a login, are for the client that the dispatch was accepted from.

    One that had neither a session nor a credential then is known by nothing but the URL.
    """
    return bool(record.user) or not record.credential or record.credential in sessions.credentials(request)


@endpoint("GET")
async def events(request: HttpRequest, record: DispatchRecord) -> HttpResponseBase:
    """State changes as server-sent events, until the dispatch is done."""
    here = tokens.status_url(request, record.pk, record.accepted_at)
    stream = _async_events(record, here) if isinstance(request, ASGIRequest) else _events(record, here)
    answer = StreamingHttpResponse(stream, content_type="text/event-stream")
    answer["Cache-Control"] = "no-store"
    answer["X-Accel-Buffering"] = "no"
    return answer


def _event(record: DispatchRecord, here: str) -> str:
    return f"event: state\nid: {record.state}\ndata: {json.dumps(status_document(record, here))}\n\n"


def _events(record: DispatchRecord, here: str) -> Iterator[str]:
    changes = _Changes(record.pk)
    with Watch(record.pk) as watch:
        while changes.left > 0:
            yield from (_event(current, here) for current in changes.look())
            if changes.over:
                return
            watch.pause(changes.left)
            if changes.silent:
                yield changes.keep_alive()


async def _async_events(record: DispatchRecord, here: str) -> AsyncIterator[str]:
    changes = _Changes(record.pk)
    async with AsyncWatch(record.pk) as watch:
        while changes.left > 0:
            for current in await sync_to_async(changes.look)():
                yield _event(current, here)
            if changes.over:
                return
            await watch.pause(changes.left)
            if changes.silent:
                yield changes.keep_alive()


class _Changes:
    """What changed between two looks at a dispatch."""

    def __init__(self, dispatch_id: Any) -> None:
        self._dispatch_id = dispatch_id
        self._seen: tuple[str, int] | None = None
        self._deadline = time.monotonic() + EVENTS_LIFETIME
        self._heard = time.monotonic()
        self.over = False

    @property
    def left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    @property
    def silent(self) -> bool:
        """Whether the client has heard nothing for so long that it, or a proxy, may have gone."""
        return time.monotonic() - self._heard >= KEEP_ALIVE

    def keep_alive(self) -> str:
        self._heard = time.monotonic()
        return ": keep-alive\n\n"

    def look(self) -> list[DispatchRecord]:
        record = ledger.find(self._dispatch_id)
        self.over = record is None or record.current_state.done
        if record is None or (record.state, record.attempts) == self._seen:
            return []
        self._seen = (record.state, record.attempts)
        self._heard = time.monotonic()
        return [record]


async def health(_request: HttpRequest) -> HttpResponse:
    """200 while this process answers and its database does, else 503."""
    try:
        await sync_to_async(_ask_database)()
    except DatabaseFailure:
        return _no_store(JsonResponse({"status": "fail", "database": "unreachable"}, status=503))
    return _no_store(JsonResponse({"status": "pass"}))


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


async def openapi(request: HttpRequest) -> HttpResponse:
    """The OpenAPI document of these endpoints, for where they are mounted."""
    prefix = request.path.removesuffix("openapi.json")
    document = {**_document(), "servers": [{"url": prefix.rstrip("/") or "/"}]}
    return JsonResponse(document, content_type="application/vnd.oai.openapi+json")


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(__file__).with_name("openapi.json").read_bytes())
    return document
