"""Projects with settings that could break the endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import VERSION
from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse

OURS = "broker_django.middleware.RequestBrokerMiddleware"


class CountsVisits:
    """Writes into the session before each view, and after it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.session["entered"] = request.session.get("entered", 0) + 1
        response = self.get_response(request)
        request.session["left"] = request.session.get("left", 0) + 1
        return response


class BySite:
    """Each host has its own URLconf; one of them includes the broker's URLs below another prefix."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.urlconf = "tests.endpoints.urls_of_a_site"
        return self.get_response(request)


def _with(*before: str, after: tuple[str, ...] = ()) -> list[str]:
    known = [name for name in settings.MIDDLEWARE if name != OURS]
    return [*before, *known, *after, OURS]


def projects() -> dict[str, dict[str, Any]]:
    """Returns settings by a description of the project."""
    cached = ["django.middleware.cache.UpdateCacheMiddleware"]
    return {
        "plain": {},
        "atomic requests": {"ATOMIC_REQUESTS": True},
        "login required": {"MIDDLEWARE": _with(after=("django.contrib.auth.middleware.LoginRequiredMiddleware",))},
        "site-wide cache": {
            "MIDDLEWARE": _with(*cached, after=("django.middleware.cache.FetchFromCacheMiddleware",)),
            "CACHES": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "site"}},
        },
        "sessions touched": {"MIDDLEWARE": _with(after=("tests.endpoints.projects.CountsVisits",))},
        "sessions saved": {"SESSION_SAVE_EVERY_REQUEST": True},
        "sessions in cookies": {
            "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
            "MIDDLEWARE": _with(after=("tests.endpoints.projects.CountsVisits",)),
        },
        "below a prefix": {"FORCE_SCRIPT_NAME": "/app"},
        "kept connections": {"CONN_MAX_AGE": 60},
        "naive datetimes": {"USE_TZ": False, "TIME_ZONE": "America/New_York"},
        "a URLconf by host": {"MIDDLEWARE": _with(after=("tests.endpoints.projects.BySite",))},
        "arguments for every view": {"ROOT_URLCONF": "tests.endpoints.urls_with_arguments"},
        "conditional and compressed": {
            "MIDDLEWARE": _with(
                "django.middleware.gzip.GZipMiddleware", "django.middleware.http.ConditionalGetMiddleware"
            )
        },
        "broken links mailed": {
            "MIDDLEWARE": _with("django.middleware.common.BrokenLinkEmailsMiddleware"),
            "MANAGERS": ["managers@example.org"] if VERSION >= (6,) else [("Managers", "managers@example.org")],
        },
        "no middleware but ours": {"MIDDLEWARE": [OURS]},
    }
