"""Conversion between HttpResponse and ResponseMessage."""

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
from broker_core.http.hop_by_hop import connection_options
from broker_core.message import ResponseMessage
from broker_django.http.cache_headers import forbid_caching
from broker_django.http.content_codings import CODED_FOR
from broker_django.http.protected_responses import STORED, STREAMED, ProtectedCookies
from broker_django.http.response_checks import checked_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable

    from django.http.response import HttpResponseBase

    from broker_core.message import Protocol


def to_response_message(
    response: HttpResponseBase, limit: int, *, method: str = "GET", protocol: Protocol = "wsgi"
) -> ResponseMessage:
    """Returns the response as a server sends it, with its whole body and without hop-by-hop fields.

    Raises ResponseTooLargeError if the body has more than `limit` bytes, and ResponseBrokenError if no server can send
    it.
    """
    dropped = connection_options(response.get("Connection", ""))
    message = ResponseMessage(
        status=response.status_code,
        reason=str(response.reason_phrase),
        headers=tuple((str(name), str(value)) for name, value in response.items() if name.lower() not in dropped),
        cookies=tuple(morsel.OutputString() for morsel in response.cookies.values()),
        body=_content(response, limit),
    )
    return checked_response(message, method, protocol)


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
    """A redirect that Django has no class for, or whose URL Django's class refuses: an unusual scheme, or too long."""

    @property
    def url(self) -> str:
        return self["Location"]


_REDIRECTS: dict[int, tuple[type[HttpResponseRedirect | HttpResponsePermanentRedirect], bool]] = {
    301: (HttpResponsePermanentRedirect, False),
    302: (HttpResponseRedirect, False),
    307: (HttpResponseRedirect, True),
    308: (HttpResponsePermanentRedirect, True),
}
"""Django's class for each status, and the value of `preserve_request`."""

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
    """Returns the stored response, unchanged, of the class that Django has for its status. A redirect has a `url`."""
    response = _empty_response(message)
    response.content = message.body
    del response["Content-Type"]
    for name, value in message.headers:
        response[name] = value
    response.cookies = ProtectedCookies(message.cookies)
    setattr(response, STORED, True)
    setattr(response, CODED_FOR, message.accept_encoding)
    return response


def refill(original: Any, message: ResponseMessage) -> HttpResponseBase:
    """Returns the view's own response object of an eager replay, with the stored content.

    So it keeps its class and its attributes, such as `context_data` and DRF's `data`, which tests read.
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
    original.cookies = ProtectedCookies(message.cookies)
    setattr(original, STORED, True)
    setattr(original, CODED_FOR, message.accept_encoding)
    if hasattr(original, "render"):
        original.render = None  # the handler checks `callable(response.render)`, and the replay has rendered it
    return original  # type: ignore[no-any-return]


async def _one_chunk(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _empty_response(message: ResponseMessage) -> HttpResponse:
    location = next((value for name, value in message.headers if name.lower() == "location"), None)
    if location and 300 <= message.status < 400:
        return redirect_to(location, message.status, message.reason)
    kind = _PLAIN.get(message.status, HttpResponse)
    if kind is HttpResponseNotModified and message.body:
        kind = HttpResponse  # a view may return a 304 with a body, which Django's class refuses
    response = kind(reason=message.reason)
    response.status_code = message.status  # Django's constructor accepts nothing above 599
    return response


def redirect_to(location: str, status: int, reason: str | None = None) -> HttpResponse:
    """Returns a redirect of Django's own class, if it supports the status and the URL. It has a `url`."""
    if status in _REDIRECTS:
        kind, preserve_request = _REDIRECTS[status]
        with contextlib.suppress(DisallowedRedirect, ValueError):
            return kind(location, preserve_request=preserve_request, reason=reason)
    return OtherRedirect(status=status, reason=reason, headers={"Location": iri_to_uri(location) or ""})


def problem(error: BrokerError) -> HttpResponse:
    """Returns the error as `application/problem+json` (RFC 9457); caches must not keep it."""
    response = JsonResponse(error.problem(), status=error.status, content_type="application/problem+json")
    forbid_caching(response)
    if error.retry_after is not None:
        response["Retry-After"] = str(error.retry_after)
    return response
