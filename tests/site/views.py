"""Views of every kind that Django knows, most of them queued."""

from __future__ import annotations

import hashlib
import os
from io import BytesIO

from django.contrib import messages
from django.contrib.auth import authenticate, login, logout
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponsePermanentRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.shortcuts import redirect
from django.utils.decorators import method_decorator
from django.utils.translation import gettext
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from broker_django.decorators import priority, queue, require_idempotency_key, run_now
from tests.site.models import Execution


def _seen(request: HttpRequest) -> dict[str, object]:
    user = getattr(request, "user", None)
    return {
        "method": request.method,
        "path": request.path,
        "full_path": request.get_full_path(),
        "absolute": request.build_absolute_uri(),
        "query": dict(request.GET.lists()),
        "post": dict(request.POST.lists()),
        "files": {
            name: [
                [file.name, file.size, hashlib.sha256(file.read()).hexdigest()] for file in request.FILES.getlist(name)
            ]
            for name in request.FILES
        },
        "headers": dict(request.headers),
        "cookies": request.COOKIES,
        "user": user.get_username() if user else None,
        "client": request.META.get("REMOTE_ADDR"),
        "script_name": request.META.get("SCRIPT_NAME"),
        "scheme": request.scheme,
        "secure": request.is_secure(),
        "host": request.get_host(),
        "language": getattr(request, "LANGUAGE_CODE", None),
        "greeting": gettext("Yes"),
        "class": type(request).__name__,
    }


def broker_seen(request: HttpRequest) -> dict[str, object]:
    broker = request.broker
    return {
        "replayed": broker.replayed,
        "id": str(broker.id) if broker.id else None,
        "queue": broker.queue,
        "attempt": broker.attempt,
        "pid": os.getpid(),
    }


@csrf_exempt
def echo(request: HttpRequest, name: str = "") -> JsonResponse:
    """Returns the request as the view sees it; queued only by a rule."""
    return JsonResponse({**_seen(request), "name": name, "broker": broker_seen(request)})


@csrf_exempt
def echo_body(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, content_type="application/octet-stream")


@csrf_exempt
@queue("payment")
def pay(request: HttpRequest) -> JsonResponse:
    Execution.objects.create(dispatch=str(request.broker.id or ""))
    return JsonResponse({"paid": request.POST.get("amount"), "broker": broker_seen(request)}, status=201)


@csrf_exempt
@require_idempotency_key
@queue("payment")
def charge(request: HttpRequest) -> JsonResponse:
    return JsonResponse(broker_seen(request), status=201)


@queue("payment")
def pay_with_csrf(request: HttpRequest) -> HttpResponse:
    return HttpResponse("paid")


@queue("bulk", wait=5)
async def slow_echo(request: HttpRequest) -> JsonResponse:
    user = await request.auser()
    return JsonResponse({"user": user.get_username(), "broker": broker_seen(request)})


@csrf_exempt
@priority("payment")
def preferably(request: HttpRequest) -> JsonResponse:
    return JsonResponse(broker_seen(request))


@csrf_exempt
@run_now
def immediately(request: HttpRequest) -> JsonResponse:
    return JsonResponse(broker_seen(request))


@queue("bulk")
class Report(View):
    def get(self, request: HttpRequest, year: int) -> JsonResponse:
        return JsonResponse({"year": year, "broker": broker_seen(request)})

    @run_now
    def head(self, request: HttpRequest, year: int) -> HttpResponse:
        return HttpResponse(headers={"X-Year": str(year)})


@method_decorator(queue("realtime"), name="dispatch")
class Decorated(View):
    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(broker_seen(request))


class ByHandler(View):
    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(broker_seen(request))

    @method_decorator(csrf_exempt)
    def dispatch(self, *args: object, **kwargs: object) -> HttpResponse:
        return super().dispatch(*args, **kwargs)

    @queue("bulk")
    def post(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(broker_seen(request))


def moved(request: HttpRequest) -> HttpResponse:
    return redirect("/echo/?from=moved")


def moved_for_good(request: HttpRequest) -> HttpResponse:
    return HttpResponsePermanentRedirect("/echo/")


def teapot(request: HttpRequest) -> HttpResponse:
    return HttpResponse("short and stout", status=418, reason="I'm a teapot", headers={"X-Tea": "Assam"})


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("secret detail")


def stream(request: HttpRequest, size: int) -> StreamingHttpResponse:
    return StreamingHttpResponse((b"x" * 1000 for _ in range(size // 1000)), content_type="text/plain")


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks():
        for number in range(3):
            yield f"chunk {number}\n".encode()

    return StreamingHttpResponse(chunks(), content_type="text/plain")


def download(request: HttpRequest) -> FileResponse:
    return FileResponse(BytesIO(b"%PDF-1.4 " * 100), as_attachment=True, filename="übersicht.pdf")


@csrf_exempt
def set_cookie_field(request: HttpRequest) -> HttpResponse:
    return HttpResponse(headers={"Set-Cookie": "sessionid=planted; Path=/", "Clear-Site-Data": '"cookies"'})


@csrf_exempt
def log_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return HttpResponse("no", status=403)
    login(request, user)
    messages.success(request, "Welcome back.")
    return HttpResponse("in")


@csrf_exempt
def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("out")


@csrf_exempt
def count(request: HttpRequest) -> HttpResponse:
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))


@run_now
def flashes(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"messages": [str(message) for message in messages.get_messages(request)]})


@csrf_exempt
def cookies(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("biscuits")
    response.set_cookie("plain", "1")
    response.set_cookie("signed", 'a "quoted", value; ü', max_age=60, secure=True, httponly=True, samesite="Strict")
    response.delete_cookie("old", path="/shop")
    return response


def broken_stream(request: HttpRequest) -> StreamingHttpResponse:
    def chunks():
        yield b"so far"
        raise RuntimeError("cable cut")

    return StreamingHttpResponse(chunks(), content_type="text/plain")


def public(request: HttpRequest) -> HttpResponse:
    return HttpResponse("anybody's", headers={"Cache-Control": "public, max-age=60"})
