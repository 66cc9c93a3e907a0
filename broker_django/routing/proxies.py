"""Proxy a request to another path of this project: it passes through all of Django a second time."""

from __future__ import annotations

import logging
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest

from broker_core.errors import LoopDetectedError
from broker_core.redaction import printable
from broker_django.http.handler import handler, thread_state
from broker_django.http.requests import to_wsgi_text, with_cookies
from broker_django.identity import sessions

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.routing import Route

logger = logging.getLogger("broker_django.routing.proxies")

PROXIED_KEY = "request_broker.proxied"
"""The key in `request.META` for the codes of the routers that proxied this request. No header field can set it."""


def proxy(request: HttpRequest, route: Route) -> HttpResponseBase:
    """Returns the destination's response. Raises LoopDetectedError if this router has already proxied the request."""
    proxied, cookies = _proxied(request, route)
    with thread_state():
        response = handler(is_async=False).get_response(proxied)
    return _adopted(request, response, cookies)


async def aproxy(request: HttpRequest, route: Route) -> HttpResponseBase:
    """The coroutine version of `proxy`."""
    proxied, cookies = await sync_to_async(_proxied)(request, route)
    with thread_state():
        response = await handler(is_async=True).get_response_async(proxied)
    return await sync_to_async(_adopted)(request, response, cookies)


def _adopted(request: HttpRequest, response: HttpResponseBase, cookies: Any) -> HttpResponseBase:
    sessions.adopt(request, response)
    for name, morsel in cookies.items():
        response.cookies.setdefault(name, morsel)
    return response


def _proxied(request: HttpRequest, route: Route) -> tuple[HttpRequest, Any]:
    """Returns the request with its new path, and the cookies that outer middleware wants to set."""
    visited: tuple[str, ...] = request.META.get(PROXIED_KEY, ())
    code = route.router.code
    if code in visited:
        loop = [*visited, code]
        logger.error("Routers proxy in a loop: %s", printable(" -> ".join(loop)), extra={"routers": loop})
        raise LoopDetectedError(f"the routers {', '.join(visited)} proxy the request in a loop")
    url = urlsplit(route.url(request.META.get("QUERY_STRING", "")))
    cookies, carrier = sessions.save_early(request)
    changed: dict[str, Any] = {PROXIED_KEY: (*visited, code), "QUERY_STRING": url.query}
    if cookies:
        changed["HTTP_COOKIE"] = with_cookies(request.META.get("HTTP_COOKIE", ""), cookies)
    path = unquote(url.path)
    proxied = _asgi(request, path, changed) if isinstance(request, ASGIRequest) else _wsgi(request, path, changed)
    _share_body(request, proxied)
    return proxied, carrier.cookies


def _wsgi(request: HttpRequest, path: str, changed: dict[str, Any]) -> HttpRequest:
    environ = {**request.META, **changed, "PATH_INFO": to_wsgi_text(path)}
    if "SCRIPT_NAME" in environ:
        environ["SCRIPT_NAME"] = to_wsgi_text(environ["SCRIPT_NAME"])
    return WSGIRequest(environ)


def _asgi(request: Any, path: str, changed: dict[str, Any]) -> HttpRequest:
    query = changed["QUERY_STRING"].encode("ascii")
    scope = {**request.scope, "path": request.META.get("SCRIPT_NAME", "").rstrip("/") + path, "query_string": query}
    again = ASGIRequest(scope, request._stream)
    again.META.update(changed)
    return again


def _share_body(request: Any, again: Any) -> None:
    """Pass on the part of the body that was already read; a stream cannot be read twice."""
    again._read_started = request._read_started
    if hasattr(request, "_body"):
        again._body = request._body
        again._stream = BytesIO(request._body)
    elif request._read_started:
        again._stream = request._stream
        if hasattr(request, "_post"):
            again._post, again._files = request._post, request._files
