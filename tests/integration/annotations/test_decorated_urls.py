"""One view at two URLs, decorated at one of them: only that one is queued."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.decorators import login_not_required, login_required
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, JsonResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from rest_framework.decorators import api_view
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from broker_django.decorators import queue, require_idempotency_key
from broker_django.models import DispatchRecord

pytestmark = pytest.mark.urls(__name__)


def seen(request: HttpRequest) -> dict[str, Any]:
    return {"replayed": request.broker.replayed, "amount": request.POST.get("amount")}


@csrf_exempt
@login_not_required
@non_atomic_requests
def function(request: HttpRequest) -> JsonResponse:
    return JsonResponse(seen(request))


@csrf_exempt
async def coroutine(request: HttpRequest) -> JsonResponse:
    return JsonResponse(seen(request))


class Callable:
    def __call__(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(seen(request))

    @csrf_exempt
    def method(self, request: HttpRequest) -> JsonResponse:
        return self(request)

    csrf_exempt = True


@method_decorator(csrf_exempt, name="dispatch")
class Report(View):
    def post(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(seen(request))


class AsyncReport(Report):
    async def post(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(seen(request))


@api_view(["POST"])
def rest_function(request: Any) -> Response:
    return Response(seen(request._request) | {"amount": request.data["amount"]})


class Rest(APIView):
    def post(self, request: Any) -> Response:
        return Response(seen(request._request) | {"amount": request.data["amount"]})


class RestSet(ViewSet):
    def create(self, request: Any) -> Response:
        return Response(seen(request._request) | {"amount": request.data["amount"]})


callable_object = Callable()
exempt_partial = csrf_exempt(partial(function))

PAIRS: dict[str, tuple[Any, Any]] = {
    "function": (function, queue("bulk")(function)),
    "coroutine": (coroutine, queue("bulk")(coroutine)),
    "partial": (exempt_partial, queue("bulk")(exempt_partial)),
    "instance": (callable_object, queue("bulk")(callable_object)),
    "method": (callable_object.method, queue("bulk")(callable_object.method)),
    "as-view": (Report.as_view(), queue("bulk")(Report.as_view())),
    "class": (Report.as_view(), queue("bulk")(Report).as_view()),
    "async-class": (AsyncReport.as_view(), queue("bulk")(AsyncReport).as_view()),
    "decorated": (require_POST(function), require_POST(queue("bulk")(require_POST(function)))),
    "rest-function": (rest_function, queue("bulk")(rest_function)),
    "rest-class": (Rest.as_view(), queue("bulk")(Rest).as_view()),
    "rest-view": (Rest.as_view(), csrf_exempt(queue("bulk")(Rest.as_view()))),
    "rest-set": (RestSet.as_view({"post": "create"}), queue("bulk")(RestSet).as_view({"post": "create"})),
}

router = SimpleRouter()
router.register("router-a", RestSet, basename="a")
router.register("router-b", queue("bulk")(RestSet), basename="b")

urlpatterns = [
    *(path(f"a/{name}/", now) for name, (now, _) in PAIRS.items()),
    *(path(f"b/{name}/", later) for name, (_, later) in PAIRS.items()),
    path("", include(router.urls)),
    path("key/", require_idempotency_key(queue("bulk")(function))),
    path("behind-login/", login_required(queue("bulk")(function))),
    path("broker/", include("broker_django.urls")),
]


@pytest.fixture(params=["wsgi", "asgi"])
def post(request: pytest.FixtureRequest) -> Any:
    if request.param == "wsgi":
        return Client(enforce_csrf_checks=True).post
    return async_to_sync(AsyncClient(enforce_csrf_checks=True).post)


@pytest.mark.parametrize("name", [*PAIRS, "router"])
def test_a_view_is_queued_only_at_the_decorated_url(post: Any, client: Client, name: str) -> None:
    now, later = ("/router-a/", "/router-b/") if name == "router" else (f"/a/{name}/", f"/b/{name}/")
    assert post(now, {"amount": "3"}).json() == {"replayed": False, "amount": "3"}
    assert not DispatchRecord.objects.exists()
    accepted = post(later, {"amount": "3"})
    assert accepted.status_code == 202
    assert client.get(accepted.json()["links"]["response"]).json() == {"replayed": True, "amount": "3"}


def test_a_key_is_required_only_at_the_decorated_url(post: Any) -> None:
    assert post("/key/").status_code == 400
    assert post("/a/function/").status_code == 200
    assert post("/b/function/").status_code == 202


def test_a_view_that_requires_no_login_still_requires_none(post: Any, settings: Any) -> None:
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE[:-1],
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
        settings.MIDDLEWARE[-1],
    ]
    assert post("/b/function/").status_code == 202
    assert post("/b/as-view/").status_code == 302
