"""What caches may keep of the endpoints' responses: nothing, unless the view allowed it for this client."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from django.utils.cache import patch_vary_headers

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

NEVER = "private, no-store"
"""Some caches know only one of the two: before 5.2.0, Django's own keeps `no-store` responses that are not
`private`.
"""

DIRECTIVE = re.compile(r'(?:[^,"]|"[^"]*"?)+')
"""A directive of Cache-Control. A quoted value may contain commas (RFC 9111, section 5.2)."""

SHARED = ("public", "s-maxage", "private")
"""Directives that are replaced by a plain `private`. `private="field"` would let shared caches keep the rest."""

OF_SHARED_CACHES = frozenset({"surrogate-control", "edge-control", "x-accel-expires"})
"""Fields that some shared caches follow instead of Cache-Control. The same applies to names that end in
CDN-Cache-Control (RFC 9213).
"""


def forbid_caching(response: HttpResponseBase) -> None:
    response["Cache-Control"] = NEVER


def skip_django_cache(request: HttpRequest) -> None:
    """Keep the project's UpdateCacheMiddleware, if there is one, from caching the response to this request.

    A replayed response has already passed that middleware. Here the middleware would see a request with other cookies.
    """
    request._cache_update_cache = False  # type: ignore[attr-defined]


def forbid_shared_caching(response: HttpResponseBase) -> None:
    """Let no shared cache keep a stored response. A private cache may, if the view allowed it, for this client only."""
    for name in list(response.headers):
        if name.lower() in OF_SHARED_CACHES or name.lower().endswith("cdn-cache-control"):
            del response[name]
    directives = [directive.strip() for directive in DIRECTIVE.findall(response.get("Cache-Control", ""))]
    if not any(directives) and not response.has_header("Expires"):
        forbid_caching(response)
        return
    names = [directive.partition("=")[0].strip().lower() for directive in directives]
    if "private" not in (directive.lower() for directive in directives) or {"public", "s-maxage"}.intersection(names):
        others = [directive for directive, name in zip(directives, names, strict=True) if name and name not in SHARED]
        response["Cache-Control"] = ", ".join([*others, "private"])
    if "no-store" not in names:
        patch_vary_headers(response, ("Cookie", "Authorization"))
