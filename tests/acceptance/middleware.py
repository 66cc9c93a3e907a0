"""Middleware that answers before the view, in processes whose environment enables it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.http import HttpResponse, HttpResponseRedirect

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase


def _is_ours(request: HttpRequest) -> bool:
    return request.path.startswith("/broker/")


def redirecting(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Any:
    """Redirects every client to the login."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return get_response(request) if _is_ours(request) else HttpResponseRedirect("/log-in/")

    return middleware


def locked_down(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Any:
    """Asks every client for a password, with status 200."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return get_response(request) if _is_ours(request) else HttpResponse("<form>password?</form>")

    return middleware


class Closed:
    """Answers that the site is closed for maintenance, in `process_view`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response["X-Reached"] = str(request.broker.reached)
        return response

    def process_view(self, request: HttpRequest, *_args: Any) -> HttpResponse | None:
        return None if _is_ours(request) else HttpResponse("closed", status=503)


def forgetful(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Any:
    """Answers every request with a 404."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return get_response(request) if _is_ours(request) else HttpResponse("nothing here", status=404)

    return middleware
