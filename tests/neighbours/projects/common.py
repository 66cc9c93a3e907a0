"""A view that returns what small packages add to a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
import waffle
from django.http import HttpResponse, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

if TYPE_CHECKING:
    from django.http import HttpRequest


@csrf_exempt
def shown(request: HttpRequest) -> JsonResponse:
    agent = getattr(request, "user_agent", None)
    bound: dict[str, Any] = structlog.contextvars.get_contextvars()
    return JsonResponse(
        {
            "user": request.user.get_username(),
            "flag": waffle.flag_is_active(request, "half"),
            "browser": agent.browser.family if agent else None,
            "bound": {name: str(bound[name]) for name in ("user_id", "ip", "correlation_id") if name in bound},
            "nonce": bool(str(getattr(request, "csp_nonce", ""))),
            "language": getattr(request, "LANGUAGE_CODE", None),
            "credentials": getattr(request, "axes_ip_address", None),
            "may": request.user.has_perm("auth.view_user", request.user),
        }
    )


@csrf_exempt
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"<html><body>Hello {request.user.get_username()}</body></html>")


@csrf_exempt
def failing(_request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the view fails")


urlpatterns = [
    path("shown/", shown),
    path("page/", page),
    path("failing/", failing),
    path("accounts/", include("allauth.urls")),
    path("silk/", include("silk.urls", namespace="silk")),
    path("__debug__/", include("debug_toolbar.urls")),
    path("broker/", include("broker_django.urls")),
]
