"""Views that write, with packages that record the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from tests.neighbours.shop.models import Order

if TYPE_CHECKING:
    from django.http import HttpRequest


@csrf_exempt
def order(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({"pk": Order.objects.create(name="new").pk})


@csrf_exempt
async def aorder(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({"pk": (await Order.objects.acreate(name="new")).pk})


urlpatterns = [
    path("order/", order),
    path("aorder/", aorder),
    path("broker/", include("broker_django.urls")),
]
