"""HttpRequest <-> RequestMessage, and HttpResponse <-> ResponseMessage."""

from __future__ import annotations

import contextlib
import os
import sys
from http.cookies import Morsel, SimpleCookie
from io import BytesIO
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from django.core.exceptions import DisallowedRedirect
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
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
from django.http.request import RawPostDataException

from broker_core.errors import BodyTooLargeError, BrokerError, ResponseTooLargeError
from broker_core.message import RequestMessage, ResponseMessage
from broker_django.context import REPLAY_KEY, Replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.message import Csrf

PROCESS_ENVIRONMENT = dict(os.environ)
"""Development servers copy the process's environment into every request. It is no part of the request."""

CGI_VARIABLES = frozenset(
    {
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
        "PATH_INFO",
        "QUERY_STRING",
        "REMOTE_ADDR",
        "REMOTE_HOST",
        "REMOTE_USER",
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
    }
)
"""What describes the request (RFC 3875, section 4.1), though the process's environment may happen to say the same."""


def raw_body(request: HttpRequest, limit: int) -> bytes:
    """The body as it came, at most `limit` bytes of it, left readable for whoever asks next.

    Raises BodyTooLargeError above the limit, and RawPostDataException where somebody has read the stream already.
    """
    if hasattr(request, "_body"):
        body = request.body
        if len(body) > limit:
            raise BodyTooLargeError(f"the body has {len(body)} bytes, at most {limit} are accepted")
        return body
    if request._read_started:  # type: ignore[attr-defined]
        raise RawPostDataException("the body was read before it could be queued")
    declared = declared_size(request)
    if declared > limit:
        raise BodyTooLargeError(f"the body has {declared} bytes, at most {limit} are accepted")
    body = request.read(limit + 1)
    request._body = body
    request._stream = BytesIO(body)
    if len(body) > limit:
        raise BodyTooLargeError(f"the body has more than the {limit} bytes that are accepted")
    return body


def declared_size(request: HttpRequest) -> int:
    """The Content-Length; 0 where there is none, or none that is a number."""
    length = str(request.META.get("CONTENT_LENGTH") or "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0


def to_message(request: HttpRequest, body: bytes, user: str | None, cookies: dict[str, str]) -> RequestMessage:
    """The request as the broker sees it. `cookies` replace those that the client sent."""
    environ = {
        key: value
        for key, value in request.META.items()
        if type(value) is str and (key in CGI_VARIABLES or PROCESS_ENVIRONMENT.get(key) != value)
    }
    if cookies:
        environ["HTTP_COOKIE"] = _with_cookies(environ.get("HTTP_COOKIE", ""), cookies)
    asgi = isinstance(request, ASGIRequest)
    return RequestMessage(
        environ, body, request.scheme or "http", user, "asgi" if asgi else "wsgi", csrf=_csrf_state(request)
    )


def _csrf_state(request: HttpRequest) -> Csrf:
    """What CsrfViewMiddleware left on the request. A view that it exempts may still check on its own."""
    if getattr(request, "_dont_enforce_csrf_checks", False):
        return "waived"
    return "checked" if getattr(request, "csrf_processing_done", False) else "unchecked"


def _with_cookies(field: str, cookies: dict[str, str]) -> str:
    """The header field with these cookies in place of those of the same names; the others stay as they were sent."""
    sent = [pair.strip() for pair in field.split(";")]
    kept = [pair for pair in sent if pair and pair.partition("=")[0].strip() not in cookies]
    return "; ".join([*kept, *(f"{name}={value}" for name, value in cookies.items())])


def to_request(message: RequestMessage, replay: Replay) -> HttpRequest:
    """The request again, of the class that it had, marked as a replay."""
    request = _asgi_request(message) if message.protocol == "asgi" else _wsgi_request(message)
    request.META[REPLAY_KEY] = replay
    if message.csrf == "checked":
        request.csrf_processing_done = True  # type: ignore[attr-defined]
    elif message.csrf == "waived":
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
    return request


def _wsgi_text(text: str) -> str:
    """PEP 3333 has the bytes of the path as latin-1, and WSGIRequest has decoded them."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _wsgi_request(message: RequestMessage) -> HttpRequest:
    environ: dict[str, Any] = {
        **message.environ,
        "PATH_INFO": _wsgi_text(message.environ.get("PATH_INFO", "/")),
        "SCRIPT_NAME": _wsgi_text(message.environ.get("SCRIPT_NAME", "")),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": message.scheme,
        "wsgi.input": BytesIO(message.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if message.body:
        environ["CONTENT_LENGTH"] = str(len(message.body))
    return WSGIRequest(environ)


def _asgi_request(message: RequestMessage) -> HttpRequest:
    environ = message.environ
    script_name = environ.get("SCRIPT_NAME", "")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": message.method,
        "scheme": message.scheme,
        "path": script_name.rstrip("/") + environ.get("PATH_INFO", "/"),
        "root_path": script_name,
        "query_string": environ.get("QUERY_STRING", "").encode(),
        "headers": [
            (name.lower().encode(), value.encode("latin-1", "replace")) for name, value in _header_fields(environ)
        ],
    }
    if environ.get("SERVER_NAME"):
        scope["server"] = (environ["SERVER_NAME"], _port(environ.get("SERVER_PORT", "")))
    if environ.get("REMOTE_ADDR"):
        scope["client"] = (environ["REMOTE_ADDR"], _port(environ.get("REMOTE_PORT", "")))
    request = ASGIRequest(scope, BytesIO(message.body))
    request.META.update(environ)
    return request


def _port(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _header_fields(environ: Any) -> Iterable[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-"), value
        elif key in {"CONTENT_TYPE", "CONTENT_LENGTH"} and value:
            yield key.replace("_", "-"), value


def to_response_message(response: HttpResponseBase, limit: int) -> ResponseMessage:
    """The response with its body read to the end. Raises ResponseTooLargeError above `limit` bytes."""
    return ResponseMessage(
        status=response.status_code,
        reason=response.reason_phrase,
        headers=tuple(response.items()),
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
    response["Cache-Control"] = "no-store"
    if error.retry_after is not None:
        response["Retry-After"] = str(error.retry_after)
    return response
