"""django-ninja."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse  # noqa: TC002 - which django-ninja reads
from ninja import File, Form, Header, NinjaAPI, Query, Router, Schema
from ninja.errors import HttpError
from ninja.files import UploadedFile  # noqa: TC002
from ninja.pagination import paginate
from ninja.security import APIKeyHeader, HttpBearer, django_auth

from tests.acceptance.comparison.middleware import DomainError
from tests.acceptance.comparison.models import Note
from tests.acceptance.comparison.views.seen import digest

api = NinjaAPI(title="Shop", urls_namespace="ninja")
router = Router(tags=["more"])


class Order(Schema):
    sku: str
    count: int = 1
    tags: list[str] = []


class Placed(Schema):
    order: Order
    user: str


class Key(APIKeyHeader):
    param_name = "X-API-Key"

    def authenticate(self, request: HttpRequest, key: str | None) -> str | None:
        return "key owner" if key == "open sesame" else None


class Bearer(HttpBearer):
    def authenticate(self, request: HttpRequest, token: str) -> str | None:
        return token if token.startswith("good") else None


@api.exception_handler(DomainError)
def sold_out(request: HttpRequest, error: DomainError) -> HttpResponse:
    return api.create_response(request, {"sold out": str(error)}, status=410)


@api.get("/items/{number}")
def item(request: HttpRequest, number: int, q: str = "", limits: list[int] = Query([])) -> dict[str, Any]:  # noqa: B008
    return {"number": number, "q": q, "limits": limits}


@api.post("/orders", response={201: Placed})
def order(request: HttpRequest, payload: Order) -> tuple[int, dict[str, Any]]:
    Note.objects.create(text=payload.sku)
    return 201, {"order": payload, "user": request.user.get_username()}


@api.post("/form")
def form(request: HttpRequest, sku: Form[str], count: Form[int]) -> dict[str, Any]:
    return {"sku": sku, "count": count}


@api.post("/upload")
def upload(request: HttpRequest, file: File[UploadedFile]) -> dict[str, Any]:
    return {"name": file.name, "size": file.size, "digest": digest(file.read())}


@api.get("/header")
def header(request: HttpRequest, x_one: Header[str]) -> str:
    return x_one


@api.get("/key", auth=Key())
def by_key(request: HttpRequest) -> str:
    return str(request.auth)


@api.get("/bearer", auth=Bearer())
def by_bearer(request: HttpRequest) -> str:
    return str(request.auth)


@api.post("/session", auth=django_auth)
def by_session(request: HttpRequest) -> str:
    return str(request.auth)


@api.get("/teapot")
def teapot(request: HttpRequest) -> None:
    raise HttpError(418, "short and stout")


@api.get("/sold-out")
def raises(request: HttpRequest) -> None:
    raise DomainError("all gone")


@api.get("/nothing", response={204: None})
def nothing(request: HttpRequest, response: HttpResponse) -> tuple[int, None]:
    response.set_cookie("ninja", "1")
    response["X-Ninja"] = "yes"
    return 204, None


@api.get("/pages", response=list[int])
@paginate
def pages(request: HttpRequest) -> list[int]:
    return list(range(250))


@router.get("/async")
async def slow(request: HttpRequest) -> dict[str, Any]:
    return {"notes": await Note.objects.acount()}


api.add_router("/more", router)
