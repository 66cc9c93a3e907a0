"""The site of the host `api`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.urls import include, path
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from tests.neighbours.projects.hosts import log_in, shown

if TYPE_CHECKING:
    from rest_framework.request import Request


class Mine(APIView):
    permission_classes = [IsAuthenticated]

    def post(self, request: Request) -> Any:
        return Response({"user": request.user.get_username(), "site": request._request.host.name})


urlpatterns = [
    path("log-in/", log_in),
    path("v1/shown/", shown, name="shown"),
    path("v1/mine/", Mine.as_view()),
    path("shown/", shown, name="other"),
    path("broker/", include("broker_django.urls")),
]
