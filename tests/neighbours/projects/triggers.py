"""A project whose history is written by triggers. Each statement also contains who writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from tests.neighbours.tracked.models import Parcel

if TYPE_CHECKING:
    from django.http import HttpRequest


@csrf_exempt
def parcel(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"pk": Parcel.objects.create(name="new").pk, "user": request.user.get_username()})


urlpatterns = [path("parcel/", parcel), path("broker/", include("broker_django.urls"))]
