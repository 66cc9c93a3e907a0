from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from benchmarks import stock
from benchmarks.work import receipt
from broker_django.decorators import queue


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("as if the broker were not there")


@csrf_exempt
@queue("payment")
def pay(request: HttpRequest) -> JsonResponse:
    return JsonResponse(receipt(request.POST["amount"]), status=201)


@csrf_exempt
@queue("bulk")
def report(request: HttpRequest) -> JsonResponse:
    return JsonResponse(receipt(request.POST["amount"]))


@csrf_exempt
@queue("bulk")
def second(_request: HttpRequest) -> HttpResponse:
    time.sleep(1)
    return HttpResponse("a second later")


@csrf_exempt
def work(request: HttpRequest) -> JsonResponse:
    return JsonResponse(receipt(request.POST["amount"]))


@csrf_exempt
def pay_by_hand(request: HttpRequest) -> JsonResponse:
    """The view that a project writes without the broker."""
    result = stock.pay.delay(request.POST["amount"])
    return JsonResponse({"id": result.id, "status": f"/tasks/{result.id}/"}, status=202)


urlpatterns = [
    path("broker/", include("broker_django.urls")),
    path("plain/", plain),
    path("pay/", pay),
    path("report/", report),
    path("work/", work),
    path("second/", second),
    path("by-hand/", pay_by_hand),
]
