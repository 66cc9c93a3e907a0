"""Conversion between HttpRequest and RequestMessage."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http.request import RawPostDataException

from broker_core.errors import BodyTooLargeError
from broker_core.http.hop_by_hop import connection_options
from broker_core.message import RequestMessage
from broker_django.context import REPLAY_KEY, Replay

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.http import HttpRequest

    from broker_core.message import Csrf

PROCESS_ENVIRONMENT = dict(os.environ)
"""The environment of the process. Development servers copy it into each request, of which it is not a part."""

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
"""Variables of the request (RFC 3875, section 4.1), even if the process's environment contains the same value."""


def raw_body(request: HttpRequest, limit: int) -> bytes:
    """Returns the raw body, and leaves it readable for others.

    Raises BodyTooLargeError if it has more than `limit` bytes, and RawPostDataException if the stream was already read.
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
    """Returns the Content-Length, or 0 if it is missing or malformed.

    Numbers that are too large become `sys.maxsize`.
    """
    length = str(request.META.get("CONTENT_LENGTH") or "0")
    if not (length.isascii() and length.isdigit()):
        return 0
    digits = length.lstrip("0")
    return int(digits or "0") if len(digits) < 19 else sys.maxsize


def to_message(
    request: HttpRequest, body: bytes, user: str | None, cookies: dict[str, str], **known: Any
) -> RequestMessage:
    """Returns the request as the broker received it, without hop-by-hop fields. `cookies` replace those of the client.

    `known` are fields of the message that cannot be read from the request.
    """
    environ = {
        key: value
        for key, value in request.META.items()
        if type(value) is str and (key in CGI_VARIABLES or PROCESS_ENVIRONMENT.get(key) != value)
    }
    for name in connection_options(environ.get("HTTP_CONNECTION", ""), _relied_on()):
        environ.pop(_key(name), None)
    if cookies:
        environ["HTTP_COOKIE"] = with_cookies(environ.get("HTTP_COOKIE", ""), cookies)
    asgi = isinstance(request, ASGIRequest)
    if asgi and request.META.get("REMOTE_PORT"):
        environ["REMOTE_PORT"] = str(request.META["REMOTE_PORT"])
    return RequestMessage(
        environ,
        body,
        request._get_scheme() or "http",  # type: ignore[attr-defined] # the replay evaluates SECURE_PROXY_SSL_HEADER again
        user,
        "asgi" if asgi else "wsgi",
        csrf=_csrf_state(request),
        path=request.path if asgi else "",
        **known,
    )


@lru_cache(maxsize=256)
def _key(name: str) -> str:
    return f"HTTP_{name.upper().replace('-', '_')}"


def _relied_on() -> set[str]:
    """Returns the fields, in lower case, that the project's settings name."""
    keys = [settings.CSRF_HEADER_NAME, *(settings.SECURE_PROXY_SSL_HEADER or ())[:1]]
    return {key.removeprefix("HTTP_").replace("_", "-").lower() for key in keys}


def _csrf_state(request: HttpRequest) -> Csrf:
    """Returns what CsrfViewMiddleware left on the request. A view that is exempt may still run its own check."""
    if getattr(request, "_dont_enforce_csrf_checks", False):
        return "waived"
    return "checked" if getattr(request, "csrf_processing_done", False) else "unchecked"


def with_cookies(field: str, cookies: dict[str, str]) -> str:
    """Returns the Cookie field with these cookies replaced or added; the others stay as the client sent them."""
    sent = [pair.strip() for pair in field.split(";")]
    kept = [pair for pair in sent if pair and pair.partition("=")[0].strip() not in cookies]
    return "; ".join([*kept, *(f"{name}={value}" for name, value in cookies.items())])


def to_request(message: RequestMessage, replay: Replay) -> HttpRequest:
    """Returns the request, of its original class, marked as a replay."""
    request = _asgi_request(message) if message.protocol == "asgi" else _wsgi_request(message)
    request.META[REPLAY_KEY] = replay
    request.broker = replay.context()  # type: ignore[attr-defined]
    if message.csrf == "checked":
        request.csrf_processing_done = True  # type: ignore[attr-defined]
    elif message.csrf == "waived":
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
    return request


def to_wsgi_text(text: str) -> str:
    """PEP 3333 represents the bytes of the path as latin-1, and WSGIRequest has decoded them as UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _wsgi_request(message: RequestMessage) -> HttpRequest:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": message.method,
        "SERVER_NAME": "localhost",  # PEP 3333 requires these; a message made by code may lack them
        "SERVER_PORT": "443" if message.scheme == "https" else "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        **message.environ,
        "PATH_INFO": to_wsgi_text(message.environ.get("PATH_INFO", "/")),
        "SCRIPT_NAME": to_wsgi_text(message.environ.get("SCRIPT_NAME", "")),
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
        "path": message.path or script_name.rstrip("/") + environ.get("PATH_INFO", "/"),
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
    request.META.update({key: value for key, value in environ.items() if key != "REMOTE_PORT"})
    return request


def _port(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _header_fields(environ: Any) -> Iterable[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-"), value
        elif key in {"CONTENT_TYPE", "CONTENT_LENGTH"} and value:
            yield key.replace("_", "-"), value
