"""Choose the route of a request from the routers' rows."""

from __future__ import annotations

import secrets
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from django.conf import settings
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils.translation import get_language

from broker_core.routing import Action, Match, Route, first
from broker_django.conf import conf
from broker_django.request_values import values
from broker_django.routing.table import NONE, tables
from broker_django.routing.visitors import visitor_of

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.urls import ResolverMatch

OWN_NAMESPACE = "request_broker"

_NONE, _PROXY, _ALL = frozenset[Action](), frozenset({Action.PROXY}), frozenset(Action)


def find(request: HttpRequest) -> Route | None:
    """Returns the route that the routers choose for this request."""
    match = match_of(request)
    return None if match is None or is_ours(request) else _route_of(request, match)


def may_block(request: HttpRequest) -> bool:
    """Whether `find` might query the database."""
    if not tables.at_hand:
        return True
    table = tables.current()
    return table.reads_user and bool(table.candidates(request.path_info))


def match_of(request: HttpRequest) -> Match | None:
    """Returns the first router that accepts this request."""
    table = tables.current()
    candidates = table.candidates(request.path_info) if table is not NONE else None
    if not candidates:
        return None
    return first(candidates, request.method or "", partial(values, request), switched_off())


def switched_off() -> frozenset[Action]:
    """Returns the actions that the settings disable."""
    if not conf.ROUTING_ENABLED:
        return _ALL
    return _NONE if conf.ENABLE_PROXY_ROUTING else _PROXY


def is_ours(request: HttpRequest) -> bool:
    """Whether the URL is one of the broker's own, which are never routed."""
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
    """Returns the prefix of the broker's URLs, which may depend on the language; empty if it is unknown.

    With it, other paths need not be resolved.
    """
    try:
        health = reverse(f"{OWN_NAMESPACE}:health", urlconf)
    except NoReverseMatch:
        return ""
    return unquote(health[len(get_script_prefix()) - 1 : -len("health/")])


def _route_of(request: HttpRequest, match: Match) -> Route:
    """Pick the destination for this visitor."""
    router = match.router
    visitor = visitor_of(request, router) if len(router.weights) > 1 else ""
    return Route(match, router.pick(visitor or secrets.token_hex(8)))
