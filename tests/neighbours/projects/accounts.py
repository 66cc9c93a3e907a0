"""Views that return the user, as packages for second factors and for impersonation know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.http import JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from broker_django import is_replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest


def outer(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Middleware that uses the packages' data before the view."""

    def middleware(request: HttpRequest) -> Any:
        request.seen = known(request)
        return get_response(request)

    return middleware


def known(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    impersonator = getattr(request, "impersonator", None)
    return {
        "user": user.get_username(),
        "verified": user.is_verified() if hasattr(user, "is_verified") else None,
        "device": str(getattr(user, "otp_device", None)),
        "hijacked": getattr(user, "is_hijacked", None),
        "history": request.session.get("hijack_history"),
        "impersonated": getattr(user, "is_impersonate", None),
        "impersonator": impersonator.get_username() if impersonator else None,
    }


@csrf_exempt
def shown(request: HttpRequest) -> JsonResponse:
    assert is_replay(request) == ("X-Queue" in request.headers)
    return JsonResponse({"outer": request.seen, "view": known(request)})


urlpatterns = [
    path("shown/", shown),
    path("hijack/", include("hijack.urls")),
    path("impersonate/", include("impersonate.urls")),
    path("broker/", include("broker_django.urls")),
]
