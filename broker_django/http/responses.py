"""HttpResponse <-> ResponseMessage."""

from __future__ import annotations

import contextlib
from http.cookies import Morsel, SimpleCookie
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

from broker_core.errors import BrokerError, ResponseTooLargeError
from broker_core.hop_by_hop import connection_options
from broker_core.message import ResponseMessage
from broker_django.caching import never_kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable

    from django.http.response import HttpResponseBase


def to_response_message(response: HttpResponseBase, limit: int) -> ResponseMessage:
    """The response without hop-by-hop fields, its body read to the end.

    Raises ResponseTooLargeError above `limit` bytes.
    """
    dropped = connection_options(response.get("Connection", ""))
    return ResponseMessage(
        status=response.status_code,
        reason=response.reason_phrase,
        headers=tuple((name, value) for name, value in response.items() if name.lower() not in dropped),
        cookies=tuple(morsel.OutputString() for morsel in response.cookies.values()),
        body=_content(response, limit),
    )


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


class SettledCookies(SimpleCookie):
    """Cookies that are final: whatever is set afterwards under the same name is ignored.

    The replay ran the whole middleware chain, so what the chain around it would still set or delete is out of date.
    """

    _settled: frozenset[str] = frozenset()

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__()
        for line in lines:
            morsel = self._morsel(line)
            self[morsel.key] = morsel
        self._settled = frozenset(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ([morsel.OutputString() for morsel in self.values()],)

    def _morsel(self, line: str) -> Morsel[str]:
        """RFC 6265, section 5.2. `load` is for the Cookie field: it drops what it takes for no cookie."""
        pair, *attributes = line.split(";")
        name, _, coded = pair.partition("=")
        morsel: Morsel[str] = Morsel()
        morsel.set(name, *self.value_decode(coded))
        for attribute in attributes:
            key, separator, value = attribute.strip().partition("=")
            if morsel.isReservedKey(key):
                morsel[key] = value if separator else True
        if str(morsel["max-age"]).isdigit():
            morsel["max-age"] = int(morsel["max-age"])  # as `set_cookie` has it
        return morsel

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._settled:
            super().__setitem__(key, value)

    def __getitem__(self, key: str) -> Morsel[str]:
        morsel = super().__getitem__(key)
        return morsel.copy() if key in self._settled else morsel


class StoredRedirect(HttpResponse):
    """A redirect that Django has no class for: another status, or a scheme that only the view's own class allows."""

    @property
    def url(self) -> str:
        return self["Location"]


_REDIRECTS: dict[int, type[HttpResponseRedirect | HttpResponsePermanentRedirect]] = {
    302: HttpResponseRedirect,
    301: HttpResponsePermanentRedirect,
}

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
    return response


def refill(original: Any, message: ResponseMessage) -> HttpResponseBase:
    """The view's own response object, which an eager replay has at hand, with all that the client gets as stored.

    So it keeps its class and its attributes, such as `context_data` and DRF's `data`, which tests look at.
    """
    if original.streaming:
        original.streaming_content = _one_chunk(message.body) if original.is_async else [message.body]
    else:
        original.content = message.body
    for name in list(original.headers):
        del original[name]
    for name, value in message.headers:
        original[name] = value
    original.status_code, original.reason_phrase = message.status, message.reason
    original.cookies = SettledCookies(message.cookies)
    if hasattr(original, "render"):
        original.render = None  # the handler asks `callable(response.render)`: the replay has rendered it
    return original  # type: ignore[no-any-return]


async def _one_chunk(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _empty_response(message: ResponseMessage) -> HttpResponse:
    location = next((value for name, value in message.headers if name.lower() == "location"), None)
    if location and 300 <= message.status < 400:
        return _redirect(message, location)
    kind = _PLAIN.get(message.status, HttpResponse)
    if kind is HttpResponseNotModified and message.body:
        kind = HttpResponse  # a view may say 304 with a body, which Django's class refuses
    return kind(status=message.status, reason=message.reason)


def _redirect(message: ResponseMessage, location: str) -> HttpResponse:
    redirect = _REDIRECTS.get(message.status)
    if redirect:
        with contextlib.suppress(DisallowedRedirect, ValueError):
            return redirect(location, reason=message.reason)
    return StoredRedirect(status=message.status, reason=message.reason)


def problem(error: BrokerError) -> HttpResponse:
    """The error as `application/problem+json` (RFC 9457), never to be cached."""
    response = JsonResponse(error.problem(), status=error.status, content_type="application/problem+json")
    never_kept(response)
    if error.retry_after is not None:
        response["Retry-After"] = str(error.retry_after)
    return response
