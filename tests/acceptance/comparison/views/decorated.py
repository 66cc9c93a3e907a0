"""Views under the decorators of Django and django-csp, and Django's class-based and asynchronous views."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

from csp.decorators import csp, csp_exempt, csp_replace, csp_update
from django.contrib.admin.views.decorators import staff_member_required
from django.contrib.auth.decorators import login_required, permission_required, user_passes_test
from django.contrib.auth.mixins import LoginRequiredMixin, PermissionRequiredMixin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.middleware.http import ConditionalGetMiddleware
from django.utils.decorators import decorator_from_middleware, method_decorator
from django.views import View
from django.views.decorators import cache, csrf, debug, gzip, http, vary
from django.views.decorators.cache import cache_page
from django.views.decorators.clickjacking import xframe_options_deny, xframe_options_exempt, xframe_options_sameorigin
from django.views.decorators.common import no_append_slash
from django.views.generic import CreateView, ListView, RedirectView, TemplateView

from tests.acceptance.comparison.models import Note

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_AGO = dt.datetime(2020, 2, 29, 12, tzinfo=dt.UTC)


@csrf.csrf_exempt
def text(request: HttpRequest, **_kwargs: object) -> HttpResponse:
    return HttpResponse(f"{request.method} text " * 40, content_type="text/plain")


@csrf.csrf_exempt
async def atext(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse(f"{request.method} text " * 40, content_type="text/plain")


def _etag(_request: HttpRequest, **_kwargs: object) -> str:
    return '"v1"'


def _modified(_request: HttpRequest, **_kwargs: object) -> dt.datetime:
    return LONG_AGO


@transaction.atomic
def _atomic(_request: HttpRequest) -> HttpResponse:
    Note.objects.create(text="kept")
    try:
        with transaction.atomic():
            Note.objects.create(text="rolled back")
            raise PermissionDenied
    except PermissionDenied:
        return HttpResponse("half")


@transaction.atomic
def _atomic_error(_request: HttpRequest) -> HttpResponse:
    Note.objects.create(text="rolled back")
    raise Http404


@debug.sensitive_post_parameters("password")
@debug.sensitive_variables("secret")
def _sensitive(request: HttpRequest) -> HttpResponse:
    secret = request.POST.get("password", "")
    raise RuntimeError(secret)


@csrf.requires_csrf_token
def _requires_token(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(request.META.get("CSRF_COOKIE", ""))))


DECORATED: dict[str, Callable[..., Any]] = {
    "plain": text,
    "async": atext,
    "xframe-exempt": xframe_options_exempt(text),
    "xframe-sameorigin": xframe_options_sameorigin(text),
    "xframe-deny": xframe_options_deny(text),
    "never-cache": cache.never_cache(text),
    "cache-control": cache.cache_control(private=True, max_age=600, must_revalidate=True)(text),
    "cache-control-public": cache.cache_control(public=True, max_age=600)(text),
    "cache-page": cache_page(60)(text),
    "vary-headers": vary.vary_on_headers("User-Agent", "X-One")(text),
    "vary-cookie": vary.vary_on_cookie(text),
    "gzip": gzip.gzip_page(text),
    "conditional-page": http.conditional_page(text),
    "etag": http.etag(_etag)(text),
    "last-modified": http.last_modified(_modified)(text),
    "condition": http.condition(_etag, _modified)(text),
    "require-post": http.require_POST(text),
    "require-safe": http.require_safe(text),
    "require-methods": http.require_http_methods(["PUT", "PATCH"])(text),
    "login": csrf.csrf_exempt(login_required(text)),
    "permission": csrf.csrf_exempt(permission_required("comparison.add_note", raise_exception=True)(text)),
    "permission-login": csrf.csrf_exempt(permission_required("comparison.delete_note")(text)),
    "test": csrf.csrf_exempt(user_passes_test(lambda user: user.username == "grace", login_url="/elsewhere/")(text)),
    "staff": csrf.csrf_exempt(staff_member_required(text)),
    "atomic": _atomic,
    "atomic-error": _atomic_error,
    "non-atomic": transaction.non_atomic_requests(text),
    "sensitive": csrf.csrf_exempt(_sensitive),
    "no-append-slash": no_append_slash(text),
    "requires-csrf-token": _requires_token,
    "ensure-csrf-cookie": csrf.ensure_csrf_cookie(text),
    "csp-exempt": csp_exempt()(text),
    "csp-exempt-report": csp_exempt(REPORT_ONLY=True)(text),
    "csp-update": csp_update({"img-src": ["https://images.shop.example"]})(text),
    "csp-replace": csp_replace({"default-src": ["'none'"]})(text),
    "csp": csp({"default-src": ["https:"]})(text),
    "csp-and-frame": xframe_options_exempt(csp_exempt()(text)),
    "from-middleware": decorator_from_middleware(ConditionalGetMiddleware)(text),
    "async-xframe-exempt": xframe_options_exempt(atext),
    "async-never-cache": cache.never_cache(atext),
    "async-login": csrf.csrf_exempt(login_required(atext)),
    "async-condition": http.condition(_etag, _modified)(atext),
    "async-vary": vary.vary_on_headers("X-One")(atext),
}


class Methods(View):
    """Answers the methods that it has."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("got")

    def delete(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=204)


@method_decorator(csrf.csrf_exempt, name="dispatch")
@method_decorator(cache.never_cache, name="get")
class Async(View):
    async def get(self, request: HttpRequest) -> JsonResponse:
        notes = [note.text async for note in Note.objects.all()]
        return JsonResponse({"notes": notes})

    async def post(self, request: HttpRequest) -> HttpResponse:
        note = await Note.objects.acreate(text=request.POST["text"])
        return HttpResponse(note.text, status=201)

    async def put(self, request: HttpRequest) -> HttpResponse:
        raise Http404


class Page(TemplateView):
    template_name = "page.html"
    extra_context = {"title": "by class"}


class Away(RedirectView):
    pattern_name = "echo-name"
    query_string = True


class Notes(LoginRequiredMixin, ListView):
    model = Note
    template_name = "page.html"
    paginate_by = 2


@method_decorator(csrf.csrf_exempt, name="dispatch")
class New(PermissionRequiredMixin, CreateView):
    model = Note
    fields = ["text"]
    template_name = "form.html"
    permission_required = "comparison.add_note"
    success_url = "/echo/"
