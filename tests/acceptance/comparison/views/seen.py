"""What a view sees of its request."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone, translation
from django.views.decorators.csrf import csrf_exempt

from broker_django.http.requests import PROCESS_ENVIRONMENT
from tests.acceptance.comparison.middleware import TENANT
from tests.acceptance.comparison.models import Note

if TYPE_CHECKING:
    from django.core.files.uploadedfile import UploadedFile

CHOICE = frozenset({"HTTP_X_QUEUE", "HTTP_PREFER"})
"""The fields by which the comparison chooses how a request is answered."""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def environ(request: HttpRequest) -> dict[str, str | int]:
    """The variables of the request itself, not those of the server's process."""
    return {
        key: value
        for key, value in sorted(request.META.items())
        if type(value) in {str, int} and key not in CHOICE and PROCESS_ENVIRONMENT.get(key) != value
    }


def upload(file: UploadedFile) -> list[Any]:
    return [file.name, file.size, file.content_type, file.charset, type(file).__name__, digest(file.read())]


def form(request: HttpRequest) -> dict[str, Any]:
    return {
        "post": dict(request.POST.lists()),
        "files": {name: [upload(file) for file in request.FILES.getlist(name)] for name in request.FILES},
    }


def surroundings(request: HttpRequest) -> dict[str, Any]:
    """Returns what middleware set before the view."""
    return {
        "class": type(request).__name__,
        "method": request.method,
        "path": [request.path, request.path_info, request.get_full_path(), request.get_full_path_info()],
        "absolute": [request.build_absolute_uri(), request.build_absolute_uri("/x/"), request.build_absolute_uri("x")],
        "host": [request.get_host(), request.get_port(), request.scheme, request.is_secure()],
        "query": dict(request.GET.lists()),
        "content": [request.content_type, request.content_params, request.encoding],
        "cookies": {name: value for name, value in request.COOKIES.items() if name not in {"sessionid", "csrftoken"}},
        "headers": {name: value for name, value in request.headers.items() if name not in {"X-Queue", "Prefer"}},
        "environ": environ(request),
        "accepts": [request.accepts("text/html"), request.accepts("application/json")],
        "language": [request.LANGUAGE_CODE, translation.get_language(), translation.gettext("Yes")],
        "time zone": timezone.get_current_timezone_name(),
        "tenant": TENANT.get(),
        "route": [request.resolver_match.route, request.resolver_match.view_name],
        "attributes": sorted(name for name in vars(request) if not name.startswith("_")),
    }


@csrf_exempt
def echo(request: HttpRequest, name: str = "") -> JsonResponse:
    return JsonResponse({**surroundings(request), "name": name, **form(request), "user": request.user.get_username()})


@csrf_exempt
def echo_body(request: HttpRequest) -> JsonResponse:
    """The raw body, read before anything is parsed."""
    return JsonResponse({**surroundings(request), "body": [len(request.body), digest(request.body)], **form(request)})


@csrf_exempt
def read_stream(request: HttpRequest) -> JsonResponse:
    """Reads the body as a stream."""
    first = request.read(3)
    line = request.readline()
    rest = b"".join(request)
    return JsonResponse({"first": first.decode("latin-1"), "line": digest(line), "rest": [len(rest), digest(rest)]})


@csrf_exempt
def other_encoding(request: HttpRequest) -> JsonResponse:
    """A form in the encoding that the view knows it has."""
    request.encoding = request.GET["encoding"]
    return JsonResponse({"get": dict(request.GET.lists()), **form(request)})


@csrf_exempt
async def aecho(request: HttpRequest) -> JsonResponse:
    user = await request.auser()
    return JsonResponse({**surroundings(request), **form(request), "user": user.get_username()})


@csrf_exempt
def mirror(request: HttpRequest) -> HttpResponse:
    """Returns the body unchanged."""
    return HttpResponse(request.body, content_type=request.headers.get("Content-Type", "application/octet-stream"))


@csrf_exempt
def note(request: HttpRequest) -> HttpResponse:
    Note.objects.create(text=f"{request.method} {request.path} by {request.user.get_username()}")
    return HttpResponse(f"{Note.objects.count()} written", content_type="text/plain")


@csrf_exempt
def number(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"This is {request.number}.", content_type="text/plain")
