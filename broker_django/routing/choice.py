"""Routers at work on a request: redirects and proxies before the view is resolved, queues once it is."""

from __future__ import annotations

import copy
import logging
import secrets
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils.cache import patch_vary_headers
from django.utils.translation import get_language

from broker_core.errors import LoopDetectedError
from broker_core.redaction import printable
from broker_core.routing import Action, Match, Route, Router, StickyBy, first, same_url
from broker_django.conf import conf
from broker_django.http import redirect_to
from broker_django.identity.users import user_key
from broker_django.request_values import values
from broker_django.routing.table import NONE, tables

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase
    from django.urls import ResolverMatch

    from broker_django.context import RequestContext

logger = logging.getLogger("broker_django.routing.choice")

OWN_NAMESPACE = "request_broker"

VISITOR_COOKIE = "request_broker_visitor"
VISITOR_COOKIE_AGE = 365 * 86_400
"""Seconds."""

_NONE, _PROXY, _ALL = frozenset[Action](), frozenset({Action.PROXY}), frozenset(Action)

MAX_HOPS = 16
"""How far a redirect is followed ahead, to see whether it leads back."""

PROXIED_KEY = "request_broker.proxied"
"""The key in `request.META` under which a proxied request has the codes of its routers: no header field can set it."""


def find(request: HttpRequest) -> Route | None:
    """Where the routers' rows send this request."""
    match = _match(request)
    return None if match is None or is_ours(request) else _route_of(request, match)


def may_block(request: HttpRequest) -> bool:
    """Whether `find` could ask the database."""
    if not tables.at_hand:
        return True
    table = tables.current()
    return table.reads_user and bool(table.candidates(request.path_info))


def _match(request: HttpRequest) -> Match | None:
    table = tables.current()
    candidates = table.candidates(request.path_info) if table is not NONE else None
    if not candidates:
        return None
    return first(candidates, request.method or "", partial(values, request), switched_off())


def switched_off() -> frozenset[Action]:
    """The actions whose routers are passed over."""
    if not conf.ROUTING_ENABLED:
        return _ALL
    return _NONE if conf.ENABLE_PROXY_ROUTING else _PROXY


def is_ours(request: HttpRequest) -> bool:
    """Whether it asks for a dispatch: no prefix may stand before the status URLs."""
    urlconf = getattr(request, "urlconf", None)
    if not request.path_info.startswith(_own_prefix(urlconf or settings.ROOT_URLCONF, get_language())):
        return False
    try:
        return is_own(resolve(request.path_info, urlconf))
    except Resolver404:
        return False


def is_own(match: ResolverMatch | None) -> bool:
    """Whether a URL is one of the broker's own, which are neither routed nor queued."""
    return match is not None and OWN_NAMESPACE in match.app_names


@lru_cache(maxsize=64)
def _own_prefix(urlconf: Any, _language: str | None) -> str:
    """What the status URLs begin with, which may depend on the language; nothing where that cannot be told.

    It spares other paths a walk through all URLs of the project.
    """
    try:
        health = reverse(f"{OWN_NAMESPACE}:health", urlconf)
    except NoReverseMatch:
        return ""
    return unquote(health[len(get_script_prefix()) - 1 : -len("health/")])


def _route_of(request: HttpRequest, match: Match) -> Route:
    """The destination for this visitor."""
    router = match.router
    visitor = _visitor(request, router) if len(router.weights) > 1 else ""
    return Route(match, router.pick(visitor or secrets.token_hex(8)))


def _visitor(request: HttpRequest, router: Router) -> str | None:
    """What is the same at each request of this visitor; None where nothing is."""
    match router.sticky_by:
        case StickyBy.SESSION:
            return _session_key(request)
        case StickyBy.USER:
            return user_key(getattr(request, "user", None)) or _session_key(request)
        case StickyBy.CLIENT_ADDRESS:
            return request.META.get("REMOTE_ADDR")
        case StickyBy.HEADER:
            return request.headers.get(router.sticky_name)
        case StickyBy.COOKIE if router.sticky_name:
            return request.COOKIES.get(router.sticky_name)
        case StickyBy.COOKIE:
            return _own_cookie(request)
    return None


def _session_key(request: HttpRequest) -> str | None:
    return getattr(getattr(request, "session", None), "session_key", None)


def _own_cookie(request: HttpRequest) -> str:
    known = request.get_signed_cookie(VISITOR_COOKIE, default=None, salt=VISITOR_COOKIE)
    if known:
        return known
    context: RequestContext = request.broker  # type: ignore[attr-defined]
    context.new_visitor = context.new_visitor or secrets.token_hex(16)
    return context.new_visitor


def remembered(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """The response, with the signed cookie that a router asked for where the visitor is new."""
    visitor = request.broker.new_visitor  # type: ignore[attr-defined]
    if visitor:
        response.set_signed_cookie(
            VISITOR_COOKIE,
            visitor,
            salt=VISITOR_COOKIE,
            max_age=VISITOR_COOKIE_AGE,
            secure=request.is_secure(),
            httponly=True,
            samesite="Lax",
        )
    return response


# Redirects


def redirect(request: HttpRequest, route: Route) -> HttpResponse | None:
    """The redirect; None where it would lead to the very same URL. Raises LoopDetectedError for a circle."""
    target = target_of(request, route)
    if same_url(target, request.get_full_path()):
        return None
    _follow(request, route, target)
    response = redirect_to(target, int(route.router.action))
    _say_how_to_cache(response, route.match)
    return response


def target_of(request: HttpRequest, route: Route) -> str:
    """The URL that the route leads to, below the SCRIPT_NAME where it is one of this site."""
    url = route.url(request.META.get("QUERY_STRING", ""))
    return _script_name(request) + url if url.startswith("/") else url


def _script_name(request: HttpRequest) -> str:
    return str(request.META.get("SCRIPT_NAME") or "").rstrip("/")


_VARIES = {StickyBy.SESSION: "Cookie", StickyBy.USER: "Cookie", StickyBy.COOKIE: "Cookie", StickyBy.HEADER: ""}
"""The header field by which a visitor is known; an empty one is named by the router."""


def _say_how_to_cache(response: HttpResponse, match: Match) -> None:
    """What depends on the visitor must not be kept for another; the rest only so long that an edit is soon seen."""
    router = match.router
    if match.conditional or len(router.weights) > 1:
        response["Cache-Control"] = "private, no-store"
    elif router.action.permanent:
        response["Cache-Control"] = "max-age=3600"
    else:
        response["Cache-Control"] = "no-cache"
    if len(router.weights) > 1 and router.sticky_by in _VARIES:
        patch_vary_headers(response, [_VARIES[router.sticky_by] or router.sticky_name])


def _follow(request: HttpRequest, route: Route, target: str) -> None:
    """Look ahead where redirects lead. Raises LoopDetectedError where that is back to a URL on the way."""
    seen, codes = [request.get_full_path(), target], [route.router.code]
    while len(seen) < MAX_HOPS:
        following = _next(request, route, seen[-1])
        if following is None:
            return
        request, route = following
        codes.append(route.router.code)
        target = target_of(request, route)
        if same_url(target, seen[-1]):
            return
        if any(same_url(target, url) for url in seen):
            break
        seen.append(target)
    logger.error("Routers lead in a circle: %s", printable(" -> ".join(codes)), extra={"routers": codes})
    raise LoopDetectedError(f"the routers {', '.join(codes)} lead from {seen[0]} back to where the request has been")


def _next(request: HttpRequest, route: Route, url: str) -> tuple[HttpRequest, Route] | None:
    """The request that a client would make there, and where a redirect would send it for certain."""
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
    match = _match(imagined)
    if match is None or not match.router.action.redirects:
        return None
    visitor = _visitor(request, match.router) if len(match.router.weights) > 1 else ""
    if visitor is None:
        return None
    return imagined, Route(match, match.router.pick(visitor))
