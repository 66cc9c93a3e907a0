"""Identify the visitor of a request, so that a router sends it to the same destination each time."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from broker_core.routing import StickyBy
from broker_django.identity.users import user_key

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.routing import Router
    from broker_django.context import RequestContext

VISITOR_COOKIE = "request_broker_visitor"
VISITOR_COOKIE_AGE = 365 * 86_400
"""Seconds."""


def visitor_of(request: HttpRequest, router: Router) -> str | None:
    """Returns the value that the router recognises this visitor by; None if the request has no such value."""
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


def with_visitor_cookie(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Set the signed cookie on the response if a router needs one and the visitor is new."""
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
