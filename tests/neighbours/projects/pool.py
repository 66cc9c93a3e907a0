"""A project whose connections to PostgreSQL are in psycopg's pool."""

from __future__ import annotations

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from tests.neighbours.shop.models import Order


@csrf_exempt
def order(request: HttpRequest) -> JsonResponse:
    """Fails the first time."""
    made = Order.objects.create(name=request.POST["name"])
    return JsonResponse({"pk": made.pk, "pooled": connection.pool is not None, "attempt": request.broker.attempt})


@csrf_exempt
def failing(request: HttpRequest) -> JsonResponse:
    """Breaks its connection's transaction the first time."""
    if request.broker.attempt == 1:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 / 0")
    return order(request)


def stats(_request: HttpRequest) -> JsonResponse:
    return JsonResponse(connection.pool.get_stats())


urlpatterns = [
    path("order/", order),
    path("failing/", failing),
    path("stats/", stats),
    path("broker/", include("broker_django.urls")),
]
