"""A project with a schema for each tenant: users, sessions and orders are the tenant's, the broker is shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth import authenticate, login
from django.db import connection
from django.http import HttpResponse, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from django_tenants.middleware.subfolder import TenantSubfolderMiddleware

from tests.neighbours.shop.models import Order

if TYPE_CHECKING:
    from django.http import HttpRequest


class BelowPaths(TenantSubfolderMiddleware):
    """A subclass, as projects write them."""


def tenant_of(request: HttpRequest) -> str:
    return str(request.tenant.schema_name)


@csrf_exempt
def log_in(request: HttpRequest) -> HttpResponse:
    login(request, authenticate(request, username=request.POST["username"], password="secret"))
    return HttpResponse("in")


@csrf_exempt
def order(request: HttpRequest) -> JsonResponse:
    made = Order.objects.create(name=request.POST["name"])
    return JsonResponse(
        {
            "pk": made.pk,
            "orders": sorted(Order.objects.values_list("name", flat=True)),
            "schema": connection.schema_name,
            "tenant": request.tenant.schema_name,
            "user": request.user.get_username(),
        }
    )


urlpatterns = [
    path("log-in/", log_in),
    path("order/", order),
    path("broker/", include("broker_django.urls")),
]
