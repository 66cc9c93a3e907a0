"""Middleware as projects write it: numbers for requests, a tenant in a context variable, errors of the domain."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.utils.decorators import sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http.response import HttpResponseBase
    from django.template.response import TemplateResponse

TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


class DomainError(Exception):
    """What the project's views raise."""


@sync_and_async_middleware
def numbered(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Gives each request a number, unless a proxy has done so, and adds it to the response."""

    def number(request: HttpRequest) -> None:
        request.number = request.headers.get("X-Request-Id") or f"number-{uuid.uuid4().hex}"

    def with_number(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        response.headers["X-Request-Id"] = request.number
        return response

    async def amiddleware(request: HttpRequest) -> HttpResponseBase:
        number(request)
        return with_number(request, await get_response(request))

    def middleware(request: HttpRequest) -> HttpResponseBase:
        number(request)
        return with_number(request, get_response(request))

    return amiddleware if iscoroutinefunction(get_response) else middleware


@sync_and_async_middleware
def tenancy(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Sets the tenant and its time zone."""

    @contextmanager
    def at_home(request: HttpRequest) -> Iterator[None]:
        token = TENANT.set(request.headers.get("X-Tenant", "nobody"))
        try:
            with timezone.override(request.headers.get("X-Timezone")):
                yield
        finally:
            TENANT.reset(token)

    async def amiddleware(request: HttpRequest) -> HttpResponseBase:
        with at_home(request):
            return await get_response(request)

    def middleware(request: HttpRequest) -> HttpResponseBase:
        with at_home(request):
            return get_response(request)

    return amiddleware if iscoroutinefunction(get_response) else middleware


class Domain(MiddlewareMixin):
    """Answers for errors of the domain, and adds to the context of every template."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> JsonResponse | None:
        return JsonResponse({"error": str(exception)}, status=409) if isinstance(exception, DomainError) else None

    def process_template_response(self, request: HttpRequest, response: TemplateResponse) -> TemplateResponse:
        response.context_data = {**(response.context_data or {}), "tenant": TENANT.get()}
        return response
