"""Redirect a request to the destination of its router."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from django.utils.cache import patch_vary_headers

from broker_core.errors import LoopDetectedError
from broker_core.redaction import printable
from broker_core.routing import Action, Match, Route, StickyBy, same_url
from broker_django.http import redirect_to
from broker_django.routing.choice import match_of
from broker_django.routing.visitors import visitor_of

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

logger = logging.getLogger("broker_django.routing.redirects")

MAX_HOPS = 16
"""How many redirects are followed ahead to find a loop."""


def redirect(request: HttpRequest, route: Route) -> HttpResponse | None:
    """Returns the redirect; None if it would lead to the same URL. Raises LoopDetectedError for a loop."""
    target = target_of(request, route)
    if same_url(target, request.get_full_path()):
        return None
    _check_for_loop(request, route, target)
    response = redirect_to(target, int(route.router.action))
    _set_cache_headers(response, route.match)
    return response


def target_of(request: HttpRequest, route: Route) -> str:
    """Returns the URL of the destination, below SCRIPT_NAME if it is a path of this site."""
    url = route.url(request.META.get("QUERY_STRING", ""))
    return _script_name(request) + url if url.startswith("/") else url


def _script_name(request: HttpRequest) -> str:
    return str(request.META.get("SCRIPT_NAME") or "").rstrip("/")


_VARIES = {StickyBy.SESSION: "Cookie", StickyBy.USER: "Cookie", StickyBy.COOKIE: "Cookie", StickyBy.HEADER: ""}
"""The header field that identifies a visitor; empty if the router names the field."""


def _set_cache_headers(response: HttpResponse, match: Match) -> None:
    """Forbid caches to share what depends on the visitor, and limit the rest so that edits take effect soon."""
    router = match.router
    if match.conditional or len(router.weights) > 1:
        response["Cache-Control"] = "private, no-store"
    elif router.action.permanent:
        response["Cache-Control"] = "max-age=3600"
    else:
        response["Cache-Control"] = "no-cache"
    if len(router.weights) > 1 and router.sticky_by in _VARIES:
        patch_vary_headers(response, [_VARIES[router.sticky_by] or router.sticky_name])


def _check_for_loop(request: HttpRequest, route: Route, target: str) -> None:
    """Follow the redirects ahead. Raises LoopDetectedError if they return to a URL that was visited."""
    visited, codes = [request.get_full_path(), target], [route.router.code]
    while len(visited) < MAX_HOPS:
        following = _next_hop(request, route, visited[-1])
        if following is None:
            return
        request, route = following
        codes.append(route.router.code)
        target = target_of(request, route)
        if same_url(target, visited[-1]):
            return
        if any(same_url(target, url) for url in visited):
            break
        visited.append(target)
    logger.error("Routers redirect in a loop: %s", printable(" -> ".join(codes)), extra={"routers": codes})
    raise LoopDetectedError(f"the routers {', '.join(codes)} redirect {visited[0]} in a loop")


def _next_hop(request: HttpRequest, route: Route, url: str) -> tuple[HttpRequest, Route] | None:
    """Returns the request that a client would send to this URL, and its route if a redirect is certain."""
    parts, prefix = urlsplit(url), f"{_script_name(request)}/"
    path = unquote(parts.path)
    if parts.netloc or not path.startswith(prefix):
        return None
    imagined = copy.copy(request)
    imagined.path, imagined.path_info = path, "/" + path[len(prefix) :]
    imagined.META = {**request.META, "QUERY_STRING": parts.query}
    imagined.__dict__.pop("GET", None)
    if route.router.action in {Action.MOVED_PERMANENTLY, Action.FOUND} and request.method != "HEAD":
        imagined.method = "GET"
    match = match_of(imagined)
    if match is None or not match.router.action.redirects:
        return None
    visitor = visitor_of(request, match.router) if len(match.router.weights) > 1 else ""
    if visitor is None:
        return None
    return imagined, Route(match, match.router.pick(visitor))
