"""Middleware that some projects have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpRequest, HttpResponse
from django.urls import path

from broker_django.decorators import queue

if TYPE_CHECKING:
    from collections.abc import Callable


class OwnUrlconf:
    """Serves this module's URLs, which do not include the broker's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/own/":
            request.urlconf = __name__
        return self.get_response(request)


class BeginsSession:
    """Begins a session for every visitor."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.session["visited"] = True
        return self.get_response(request)


@queue("bulk")
def own(request: HttpRequest) -> HttpResponse:
    return HttpResponse("own")


urlpatterns = [path("own/", own)]
