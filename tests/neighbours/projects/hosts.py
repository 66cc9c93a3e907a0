"""The site of the default host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth import authenticate, login
from django.http import HttpResponse, JsonResponse
from django.urls import include, path, reverse
from django.views.decorators.csrf import csrf_exempt
from django_hosts import reverse as reverse_on

if TYPE_CHECKING:
    from django.http import HttpRequest


@csrf_exempt
def log_in(request: HttpRequest) -> HttpResponse:
    login(request, authenticate(request, username="ada", password="secret"))
    return HttpResponse("in")


@csrf_exempt
def shown(request: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {
            "site": request.host.name,
            "view": request.resolver_match.view_name,
            "here": reverse("shown"),
            "there": reverse_on("shown", host="api"),
            "user": request.user.get_username(),
        }
    )


urlpatterns = [
    path("log-in/", log_in),
    path("shown/", shown, name="shown"),
    path("broker/", include("broker_django.urls")),
]
