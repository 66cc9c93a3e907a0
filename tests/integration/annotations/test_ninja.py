"""Views of django-ninja: one view function serves all methods of a URL, and each operation has its own decorators."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.views.decorators.cache import never_cache
from ninja import File, NinjaAPI, Router, Schema
from ninja.decorators import decorate_view
from ninja.files import UploadedFile  # noqa: TC002 - django-ninja reads it at run time

from broker_django.annotations.view_annotations import annotation_of
from broker_django.decorators import priority, queue, require_idempotency_key, run_now
from broker_django.models import DispatchRecord
from tests.processes import finished

pytestmark = [pytest.mark.urls(__name__)]

api = NinjaAPI()
router = Router()


class Order(Schema):
    product: str
    count: int = 1


@api.get("/orders")
def listed(request: HttpRequest) -> dict[str, bool]:
    return {"replayed": request.broker.replayed}


@api.post("/orders")
@queue("bulk")
def ordered(request: HttpRequest, order: Order) -> dict[str, Any]:
    return {"replayed": request.broker.replayed, "order": f"{order.count} {order.product}"}


@queue("payment")
@api.put("/orders/{pk}")
def changed(request: HttpRequest, pk: int, order: Order) -> dict[str, Any]:
    return {"replayed": request.broker.replayed, "pk": pk}


@api.delete("/orders/{pk}")
@require_idempotency_key
@queue("payment")
@run_now
def removed(request: HttpRequest, pk: int) -> dict[str, Any]:
    return {"replayed": request.broker.replayed, "pk": pk}


@api.patch("/orders/{pk}")
@decorate_view(queue("realtime"), never_cache)
def patched(request: HttpRequest, pk: int) -> dict[str, Any]:
    return {"replayed": request.broker.replayed, "pk": pk}


@decorate_view(priority("bulk"))
@api.get("/orders/{pk}")
def read(request: HttpRequest, pk: int) -> dict[str, Any]:
    return {"replayed": request.broker.replayed, "pk": pk}


@api.post("/files")
@queue("bulk")
def filed(request: HttpRequest, file: UploadedFile = File(...)) -> dict[str, Any]:  # noqa: B008
    return {"replayed": request.broker.replayed, "size": len(file.read())}


@router.post("/coroutine")
@queue("bulk")
async def coroutine(request: HttpRequest, order: Order) -> dict[str, Any]:
    return {"replayed": request.broker.replayed, "order": order.product}


@router.get("/coroutine")
async def left_alone(request: HttpRequest) -> dict[str, Any]:
    return {"replayed": request.broker.replayed}


def plain(request: HttpRequest) -> dict[str, Any]:
    return {"replayed": request.broker.replayed}


api.get("/plain")(plain)
api.get("/queued")(queue("bulk")(plain))
api.add_router("/nested", router)
api.add_router("/again", router, url_name_prefix="again")

urlpatterns = [path("api/", api.urls), path("broker/", include("broker_django.urls"))]


def view_at(route: str, urls: Any = api.urls[0]) -> Any:
    return next(url.callback for url in urls if str(url.pattern) == route)


@pytest.fixture(params=["wsgi", "asgi"])
def send(request: pytest.FixtureRequest, client: Client) -> Any:
    """Any request, by method and path."""
    if request.param == "wsgi":
        return lambda method, *args, **kwargs: getattr(client, method)(*args, **kwargs)
    return lambda method, *args, **kwargs: async_to_sync(getattr(AsyncClient(), method))(*args, **kwargs)


ORDER = {"data": {"product": "tea", "count": 2}, "content_type": "application/json"}


@pytest.mark.parametrize(
    ("method", "url", "queue_name"),
    [
        ("get", "orders", None),
        ("post", "orders", "bulk"),
        ("put", "orders/1", "payment"),
        ("delete", "orders/1", "payment"),
        ("patch", "orders/1", "realtime"),
        ("get", "orders/1", None),
        ("post", "nested/coroutine", "bulk"),
        ("post", "again/coroutine", "bulk"),
        ("get", "nested/coroutine", None),
        ("get", "plain", None),
        ("get", "queued", "bulk"),
    ],
)
def test_each_operation_is_queued_by_its_own_decorator(send: Any, method: str, url: str, queue_name: str) -> None:
    body = ORDER if method in {"post", "put", "patch"} else {}
    response = send(method, f"/api/{url}", **body, headers={"Idempotency-Key": '"k"'})
    assert response.status_code == (202 if queue_name else 200), response.content
    assert [record.queue for record in DispatchRecord.objects.all()] == ([queue_name] if queue_name else [])
    if queue_name:
        assert send("get", response.json()["links"]["response"]).json()["replayed"] is True
    else:
        assert response.json()["replayed"] is False


def test_an_operation_may_be_prioritised_and_may_require_a_key(send: Any) -> None:
    assert send("get", "/api/orders/1", headers={"Prefer": "respond-async"}).status_code == 202
    assert send("delete", "/api/orders/1").status_code == 400


def test_an_operation_gets_a_file(client: Client) -> None:
    accepted = client.post("/api/files", {"file": SimpleUploadedFile("rows.csv", b"a,b\n" * 1000)})
    assert accepted.status_code == 202
    assert client.get(accepted.json()["links"]["response"]).json() == {"replayed": True, "size": 4000}


def test_a_url_can_be_decorated_and_an_operation_overrides_it() -> None:
    orders = view_at("orders/<pk>")
    whole = run_now(orders)
    assert annotation_of(whole, "DELETE").queue == "payment"
    assert annotation_of(whole, "GET").queue == "bulk"
    listing = queue("bulk")(never_cache(view_at("orders")))
    assert annotation_of(listing, "GET").queue == "bulk"
    assert annotation_of(view_at("orders"), "GET") is None
    assert annotation_of(never_cache(view_at("orders")), "POST").queue == "bulk"
    assert annotation_of(view_at("orders"), "HEAD") is None


def test_decorators_of_a_whole_router_and_of_views_named_for_it() -> None:
    decorated = Router()
    decorated.add_decorator(queue("bulk"), mode="view")
    operations = Router()
    operations.add_decorator(queue("payment"), mode="operation")
    for each in (decorated, operations):
        each.get("/x")(lambda request: HttpResponse())
    other = NinjaAPI(urls_namespace="other")
    other.add_router("/view", decorated)
    other.add_router("/operation", operations)
    assert annotation_of(view_at("view/x", other.urls[0]), "GET").queue == "bulk"
    assert annotation_of(view_at("operation/x", other.urls[0]), "GET").queue == "payment"


def test_a_project_without_django_ninja_does_not_import_it() -> None:
    script = "import django, sys; django.setup(); import broker_django.decorators; print('ninja' in sys.modules)"
    ran = finished([sys.executable, "-c", script])
    assert ran.stdout.strip() == "False", ran.stderr
