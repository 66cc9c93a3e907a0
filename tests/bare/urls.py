from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.http import HttpResponse, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from broker_django.decorators import queue

if TYPE_CHECKING:
    from django.http import HttpRequest


@csrf_exempt
def view(request: HttpRequest) -> HttpResponse:
    user, files = getattr(request, "user", None), [file.size for file in request.FILES.values()]
    response = JsonResponse(
        {"replayed": request.broker.replayed, "user": str(getattr(user, "pk", None)), "files": files}
    )
    if hasattr(request, "session"):
        request.session["seen"] = True
    response.set_cookie("seen", "1")
    return response


urlpatterns = [
    path("queued/", queue("bulk")(view)),
    path("held/", queue("bulk", wait=5)(view)),
    path("by-rule/", view),
    path("broker/", include("broker_django.urls")),
]
if apps.is_installed("django.contrib.admin"):
    from django.contrib import admin

    urlpatterns.append(path("admin/", admin.site.urls))
