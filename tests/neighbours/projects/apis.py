"""APIs that authenticate on their own: django-ninja, and REST framework with tokens and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.urls import include, path
from knox.auth import TokenAuthentication as KnoxAuthentication
from ninja import NinjaAPI
from ninja.security import APIKeyHeader, HttpBearer, django_auth
from ninja.throttling import AuthRateThrottle
from oauth2_provider.contrib.rest_framework import OAuth2Authentication, TokenHasScope
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework_api_key.permissions import HasAPIKey
from rest_framework_simplejwt.authentication import JWTAuthentication, JWTStatelessUserAuthentication

if TYPE_CHECKING:
    from django.http import HttpRequest

TOKENS = {"ann-1": "ann", "ann-2": "ann", "bob-1": "bob"}
"""Of django-ninja's clients."""


class Bearer(HttpBearer):
    def authenticate(self, request: HttpRequest, token: str) -> Any:
        return TOKENS.get(token)


class Key(APIKeyHeader):
    param_name = "X-API-Key"

    def authenticate(self, request: HttpRequest, key: str | None) -> Any:
        return TOKENS.get(key or "")


api = NinjaAPI(urls_namespace="neighbours")


def who(request: HttpRequest) -> dict[str, Any]:
    return {"auth": str(request.auth), "user": request.user.get_username()}


@api.post("/bearer", auth=Bearer())
def bearer(request: HttpRequest) -> dict[str, Any]:
    return who(request)


@api.post("/key", auth=Key())
def key(request: HttpRequest) -> dict[str, Any]:
    return who(request)


@api.post("/session", auth=django_auth)
def session(request: HttpRequest) -> dict[str, Any]:
    return who(request)


@api.post("/either", auth=[Bearer(), django_auth])
def either(request: HttpRequest) -> dict[str, Any]:
    return who(request)


@api.post("/throttled", auth=Bearer(), throttle=[AuthRateThrottle("2/d")])
def throttled(request: HttpRequest) -> dict[str, Any]:
    return who(request)


class Who(APIView):
    permission_classes = [IsAuthenticated]

    def post(self, request: Any) -> Response:
        user, auth = request.user, request.auth
        return Response(
            {
                "user": [type(user).__name__, str(user), str(user.pk)],
                "auth": [type(auth).__name__, str(auth)],
                "payload": getattr(auth, "payload", None),
            }
        )


class Stateless(Who):
    authentication_classes = [JWTStatelessUserAuthentication]


class Rows(Who):
    authentication_classes = [JWTAuthentication]


class Knox(Who):
    authentication_classes = [KnoxAuthentication]


class OAuth(Who):
    authentication_classes = [OAuth2Authentication]
    permission_classes = [TokenHasScope]
    required_scopes = ["read"]


class Keyed(Who):
    authentication_classes = []
    permission_classes = [HasAPIKey]


urlpatterns = [
    path("ninja/", api.urls),
    path("stateless/", Stateless.as_view()),
    path("rows/", Rows.as_view()),
    path("knox/", Knox.as_view()),
    path("oauth/", OAuth.as_view()),
    path("keyed/", Keyed.as_view()),
    path("broker/", include("broker_django.urls")),
]
