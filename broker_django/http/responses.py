"""HttpResponse <-> ResponseMessage."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from django.core.exceptions import DisallowedRedirect
from django.http import (
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseForbidden,
    HttpResponseGone,
    HttpResponseNotFound,
    HttpResponseNotModified,
    HttpResponsePermanentRedirect,
    HttpResponseRedirect,
    HttpResponseServerError,
    JsonResponse,
)
from django.utils.encoding import iri_to_uri

from broker_core.errors import BrokerError, ResponseTooLargeError
from broker_core.hop_by_hop import connection_options
from broker_core.message import ResponseMessage
from broker_django.http.cache_headers import never_kept
from broker_django.http.content_codings import CODED_FOR
from broker_django.http.protected_responses import STORED, STREAMED, SettledCookies
from broker_django.http.response_checks import sendable

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable

    from django.http.response import HttpResponseBase

    from broker_core.message import Protocol


def to_response_message(
    response: HttpResponseBase, limit: int, *, method: str = "GET", protocol: Protocol = "wsgi"
) -> ResponseMessage:
    """The response without hop-by-hop fields, its body read to the end, as a server sends it over this interface.

    Raises ResponseTooLargeError above `limit` bytes, and ResponseBrokenError for what no server could send.
    """
    dropped = connection_options(response.get("Connection", ""))
    message = ResponseMessage(
        status=response.status_code,
        reason=str(response.reason_phrase),
        headers=tuple((str(name), str(value)) for name, value in response.items() if name.lower() not in dropped),
        cookies=tuple(morsel.OutputString() for morsel in response.cookies.values()),
        body=_content(response, limit),
    )
    return sendable(message, method, protocol)


def _content(response: HttpResponseBase, limit: int) -> bytes:
    if not response.streaming:
        content: bytes = response.content  # type: ignore[attr-defined]
        if len(content) > limit:
            raise ResponseTooLargeError(f"the response has {len(content)} bytes, at most {limit} are stored")
        return content
    if getattr(response, "is_async", False):
        return async_to_sync(_collect_async)(response, limit)  # type: ignore[arg-type]
    return _collect(response, limit)


def _collect(chunks: Iterable[bytes], limit: int) -> bytes:
    body = bytearray()
    for chunk in chunks:
        _append(body, chunk, limit)
    return bytes(body)


async def _collect_async(chunks: AsyncIterable[bytes], limit: int) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        _append(body, chunk, limit)
    return bytes(body)


def _append(body: bytearray, chunk: bytes, limit: int) -> None:
    body += chunk
    if len(body) > limit:
        raise ResponseTooLargeError(f"the response has more than the {limit} bytes that are stored")


class OtherRedirect(HttpResponse):
    """A redirect that Django has no class for, or whose URL its class refuses: an app's scheme, or too long."""

    @property
    def url(self) -> str:
        return self["Location"]


_REDIRECTS: dict[int, tuple[type[HttpResponseRedirect | HttpResponsePermanentRedirect], bool]] = {
    301: (HttpResponsePermanentRedirect, False),
    302: (HttpResponseRedirect, False),
    307: (HttpResponseRedirect, True),
    308: (HttpResponsePermanentRedirect, True),
}
"""Django's class for a status, and whether it is told to preserve the request."""

_PLAIN: dict[int, type[HttpResponse]] = {
    kind.status_code: kind
    for kind in (
        HttpResponseNotModified,
        HttpResponseBadRequest,
        HttpResponseForbidden,
        HttpResponseNotFound,
        HttpResponseGone,
        HttpResponseServerError,
    )
}


def to_response(message: ResponseMessage) -> HttpResponse:
    """The response, verbatim, and of the class that Django has for its status; a redirect has its `url`."""
    response = _empty_response(message)
    response.content = message.body
    del response["Content-Type"]
    for name, value in message.headers:
        response[name] = value
    response.cookies = SettledCookies(message.cookies)
    setattr(response, STORED, True)
    setattr(response, CODED_FOR, message.accept_encoding)
    return response


def refill(original: Any, message: ResponseMessage) -> HttpResponseBase:
    """The view's own response object, which an eager replay has at hand, with all that the client gets as stored.

    So it keeps its class and its attributes, such as `context_data` and DRF's `data`, which tests look at.
    """
    if original.streaming:
        original.streaming_content = _one_chunk(message.body) if original.is_async else [message.body]
        setattr(original, STREAMED, message.body)
    else:
        original.content = message.body
    for name in list(original.headers):
        del original[name]
    for name, value in message.headers:
        original[name] = value
    original.status_code, original.reason_phrase = message.status, message.reason
    original.cookies = SettledCookies(message.cookies)
    setattr(original, STORED, True)
    setattr(original, CODED_FOR, message.accept_encoding)
    if hasattr(original, "render"):
        original.render = None  # the handler asks `callable(response.render)`: the replay has rendered it
    return original  # type: ignore[no-any-return]


async def _one_chunk(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _empty_response(message: ResponseMessage) -> HttpResponse:
    location = next((value for name, value in message.headers if name.lower() == "location"), None)
    if location and 300 <= message.status < 400:
        return redirect_to(location, message.status, message.reason)
    kind = _PLAIN.get(message.status, HttpResponse)
    if kind is HttpResponseNotModified and message.body:
        kind = HttpResponse  # a view may say 304 with a body, which Django's class refuses
    response = kind(reason=message.reason)
    response.status_code = message.status  # which Django's classes take up to 599 alone
    return response


def redirect_to(location: str, status: int, reason: str | None = None) -> HttpResponse:
    """A redirect of Django's own class, if there is one for the status and it takes the URL. It has its `url`."""
    if status in _REDIRECTS:
        kind, preserve_request = _REDIRECTS[status]
        with contextlib.suppress(DisallowedRedirect, ValueError):
            return kind(location, preserve_request=preserve_request, reason=reason)
    return OtherRedirect(status=status, reason=reason, headers={"Location": iri_to_uri(location) or ""})


def problem(error: BrokerError) -> HttpResponse:
    """The error as `application/problem+json` (RFC 9457), never to be cached."""
    response = JsonResponse(error.problem(), status=error.status, content_type="application/problem+json")
    never_kept(response)
    if error.retry_after is not None:
        response["Retry-After"] = str(error.retry_after)
    return response
