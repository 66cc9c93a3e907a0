"""What caches may keep of what the endpoints hand out: nothing, unless a view said so for the client that asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from django.utils.cache import patch_vary_headers

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

NEVER = "private, no-store"
"""Some caches know only one of the two: Django's own, until 5.2.0, keeps what is `no-store` and not `private`."""

DIRECTIVE = re.compile(r'(?:[^,"]|"[^"]*"?)+')
"""One of Cache-Control; the value of one may be quoted and have commas (RFC 9111, section 5.2)."""

SHARED = ("public", "s-maxage", "private")
"""Directives that are replaced by a plain `private`: that of some fields only lets shared caches keep the rest."""

OF_SHARED_CACHES = frozenset({"surrogate-control", "edge-control", "x-accel-expires"})
"""Fields that some shared caches heed instead of Cache-Control, as they do those that end in CDN-Cache-Control
(RFC 9213).
"""


def never_kept(response: HttpResponseBase) -> None:
    response["Cache-Control"] = NEVER


def not_by_django(request: HttpRequest) -> None:
    """Have the project's UpdateCacheMiddleware, if any, keep no answer to this request.

    A response that was replayed has passed through it already. Here it would find a request with other cookies.
    """
    request._cache_update_cache = False  # type: ignore[attr-defined]


def for_one_client(response: HttpResponseBase) -> None:
    """Let no shared cache keep a stored response; another may as far as the view said so, for this client."""
    for name in list(response.headers):
        if name.lower() in OF_SHARED_CACHES or name.lower().endswith("cdn-cache-control"):
            del response[name]
    said = [directive.strip() for directive in DIRECTIVE.findall(response.get("Cache-Control", ""))]
    if not any(said) and not response.has_header("Expires"):
        never_kept(response)
        return
    names = [directive.partition("=")[0].strip().lower() for directive in said]
    if "private" not in (directive.lower() for directive in said) or {"public", "s-maxage"}.intersection(names):
        kept = [directive for directive, name in zip(said, names, strict=True) if name and name not in SHARED]
        response["Cache-Control"] = ", ".join([*kept, "private"])
    if "no-store" not in names:
        patch_vary_headers(response, ("Cookie", "Authorization"))
