"""Middleware that sets the user by a header field, for projects without other authentication."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.apps import apps

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse


@dataclass
class Caller:
    """A kind of user that Django does not know."""

    pk: str
    is_authenticated: bool = True


def account(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        email: Any = request.headers.get("X-User")
        request.user = apps.get_model("accounts.Account").objects.filter(email=email).first()
        return get_response(request)

    return middleware


def caller(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        name = request.headers.get("X-User")
        request.user = Caller(name) if name else None
        request.session = {"a project's own": True}
        return get_response(request)

    return middleware
