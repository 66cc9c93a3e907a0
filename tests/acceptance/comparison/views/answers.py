"""Responses of every kind: statuses, header fields, cookies, bodies, streams, files, redirects, errors."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django import http
from django.core import exceptions
from django.core.files.storage import default_storage
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.multipartparser import MultiPartParserError
from django.shortcuts import get_object_or_404, redirect, render
from django.template.response import SimpleTemplateResponse, TemplateResponse
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt, csrf_protect, ensure_csrf_cookie

from tests.acceptance.comparison.middleware import DomainError
from tests.acceptance.comparison.models import Note
from tests.acceptance.comparison.views.seen import digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from django.http.response import HttpResponseBase

LONG_AGO = dt.datetime(2020, 2, 29, 12, tzinfo=dt.UTC)
HERE = Path(__file__)


@csrf_exempt
def status(_request: HttpRequest, code: int) -> HttpResponse:
    return HttpResponse("" if code in {204, 205, 304} else f"status {code}", status=code, content_type="text/plain")


def _reason(text: Any) -> Callable[[], HttpResponse]:
    return lambda: HttpResponse("reason", status=299, reason=text)


def _json() -> HttpResponse:
    return JsonResponse({"ä": [1, 2.5, None, True], "when": LONG_AGO}, json_dumps_params={"ensure_ascii": False})


def _of_chunks() -> HttpResponse:
    return HttpResponse(iter(["one ", b"two ", "drei ü"]))


def _written() -> HttpResponse:
    response = HttpResponse("a")
    response.write("b")
    response.writelines(["c", b"d"])
    return response


def _deferred() -> HttpResponse:
    response = SimpleTemplateResponse("page.html", {"tenant": "deferred"})
    response.add_post_render_callback(lambda rendered: rendered.headers.update({"X-Rendered": "yes"}))
    return response


BODIES: dict[str, Callable[[], HttpResponse]] = {
    "empty": HttpResponse,
    "text": lambda: HttpResponse("grüße", content_type="text/plain; charset=utf-8"),
    "latin-1": lambda: HttpResponse("grüße", content_type="text/plain; charset=iso-8859-1"),
    "utf-16": lambda: HttpResponse("grüße", content_type="text/html", charset="utf-16"),
    "bytes": lambda: HttpResponse(bytes(range(256)), content_type="application/octet-stream"),
    "chunks": _of_chunks,
    "written": _written,
    "json": _json,
    "json-list": lambda: JsonResponse([1, "ü"], safe=False),
    "long": lambda: HttpResponse("long " * 60_000),
    "no-content-type": lambda: _without("Content-Type"),
    "own-length": lambda: HttpResponse("12345", headers={"Content-Length": "5"}),
    "deferred": _deferred,
    "reason": _reason("Quite Fine"),
    "reason-empty": _reason(""),
    "reason-lazy": _reason(gettext_lazy("Yes")),
}


def _without(name: str) -> HttpResponse:
    response = HttpResponse("nothing said of me")
    del response[name]
    return response


@csrf_exempt
def body(_request: HttpRequest, case: str) -> HttpResponse:
    return BODIES[case]()


FIELDS: dict[str, dict[str, str]] = {
    "plain": {"X-One": "1", "X-Two": "two words"},
    "case": {"x-lower": "l", "X-UPPER": "U", "X-mIxEd": "m"},
    "latin-1": {"X-Name": "Jürgen"},
    "encoded-word": {"X-Name": "€ and ü"},
    "empty": {"X-Empty": ""},
    "spaces": {"X-Spaces": "a  b\tc"},
    "symbols": {"X-Symbols": "!#$%&'*+-.^_`|~,;=\"()<>@:\\/[]?{}"},
    "underscore": {"X_Under_Score": "yes"},
    "long": {"X-Long": "v" * 4000},
    "many": {f"X-Field-{number}": str(number) for number in range(60)},
    "number": {"X-Number": 42},  # type: ignore[dict-item]
    "link": {"Link": "</style.css>; rel=preload; as=style, </next>; rel=\"next\"; title*=UTF-8'de'%c3%a4"},
    "vary": {"Vary": "X-One,  Accept"},
    "vary-star": {"Vary": "*"},
    "cache-public": {"Cache-Control": "public, max-age=60, s-maxage=30"},
    "cache-private": {"Cache-Control": "private, max-age=60"},
    "cache-no-store": {"Cache-Control": "no-store"},
    "expires": {"Expires": "Sat, 29 Feb 2020 12:00:00 GMT", "Pragma": "no-cache", "Age": "5"},
    "etag": {"ETag": '"strong"'},
    "etag-weak": {"ETag": 'W/"weak"'},
    "last-modified": {"Last-Modified": "Sat, 29 Feb 2020 12:00:00 GMT"},
    "retry-after": {"Retry-After": "120"},
    "language": {"Content-Language": "fr"},
    "location": {"Location": "/elsewhere/", "Content-Location": "/here/"},
    "disposition": {"Content-Disposition": "attachment; filename*=UTF-8''%e2%82%ac.txt"},
    "security": {
        "Content-Security-Policy": "default-src 'none'",
        "X-Frame-Options": "SAMEORIGIN",
        "Referrer-Policy": "origin",
        "Cross-Origin-Opener-Policy": "unsafe-none",
        "X-Content-Type-Options": "nosniff",
        "Strict-Transport-Security": "max-age=1",
    },
    "cors": {"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Expose-Headers": "X-One"},
    "broker-like": {"Preference-Applied": "wait=1", "Prefer": "x", "X-Queue": "x"},
    "request-id": {"X-Request-Id": "of the view"},
}


@csrf_exempt
def fields(_request: HttpRequest, case: str) -> HttpResponse:
    return HttpResponse("fields", headers=FIELDS[case])


COOKIES: dict[str, list[dict[str, Any]]] = {
    "one": [{"key": "a", "value": "1"}],
    "order": [{"key": name, "value": name} for name in ("z", "a", "m", "B")],
    "flags": [{"key": "a", "value": "1", "secure": True, "httponly": True, "samesite": "Strict"}],
    "samesite-none": [{"key": "a", "value": "1", "secure": True, "samesite": "None"}],
    "samesite-lax": [{"key": "a", "value": "1", "samesite": "Lax"}],
    "max-age": [{"key": "a", "value": "1", "max_age": 3600}],
    "max-age-delta": [{"key": "a", "value": "1", "max_age": dt.timedelta(hours=2)}],
    "max-age-zero": [{"key": "a", "value": "1", "max_age": 0}],
    "expires": [{"key": "a", "value": "1", "expires": dt.datetime(2040, 2, 29, tzinfo=dt.UTC)}],
    "expires-text": [{"key": "a", "value": "1", "expires": "Wed, 29-Feb-2040 12:00:00 GMT"}],
    "path-domain": [{"key": "a", "value": "1", "path": "/sub/", "domain": "shop.example"}],
    "same-name": [{"key": "a", "value": "1"}, {"key": "a", "value": "2", "path": "/x/"}],
    "quoted": [{"key": "a", "value": 'say "hi"; there, \\o/ = ü'}],
    "empty": [{"key": "a", "value": ""}],
    "json": [{"key": "a", "value": '{"x": [1, 2]}'}],
    "long": [{"key": "a", "value": "v" * 3500}],
    "odd-names": [{"key": "__Host-a", "value": "1", "secure": True}, {"key": "a.b-c~d", "value": "2"}],
    "name-of-attribute": [{"key": "expired", "value": "1"}, {"key": "pathx", "value": "2"}],
    "ours": [{"key": "sessionid", "value": "of-the-view"}, {"key": "csrftoken", "value": "c" * 32}],
    "language": [{"key": "django_language", "value": "de"}],
}


@csrf_exempt
def cookies(_request: HttpRequest, case: str) -> HttpResponse:
    response = HttpResponse("cookies")
    for cookie in COOKIES[case]:
        response.set_cookie(**cookie)
    return response


@csrf_exempt
def partitioned_cookie(_request: HttpRequest) -> HttpResponse:
    response = HttpResponse("cookies")
    response.set_cookie("plain", "1", secure=True)
    response.cookies["plain"]["comment"] = "for the record"
    response.cookies["plain"]["version"] = "1"
    return response


@csrf_exempt
def delete_cookies(_request: HttpRequest) -> HttpResponse:
    response = HttpResponse("deleted")
    response.delete_cookie("a")
    response.delete_cookie("b", path="/x/", domain="shop.example", samesite="None")
    return response


@csrf_exempt
def signed_cookie(request: HttpRequest) -> HttpResponse:
    before = request.get_signed_cookie("signed", default="none", salt="s")
    response = HttpResponse(before)
    if "set" in request.GET:
        response.set_signed_cookie("signed", "ü=1", salt="s", max_age=60, httponly=True)
    return response


# Streams and files


def _lines(count: int = 5) -> Iterator[bytes]:
    for number in range(count):
        yield f"line {number}\n".encode()


async def _alines() -> AsyncIterator[bytes]:
    for line in _lines():
        yield line


def _breaking() -> Iterator[bytes]:
    yield b"so far"
    raise RuntimeError("the stream breaks off")


STREAMS: dict[str, Callable[[], HttpResponseBase]] = {
    "lines": lambda: StreamingHttpResponse(_lines(), content_type="text/plain"),
    "list": lambda: StreamingHttpResponse(["a", "ü", b"c"]),
    "empty": lambda: StreamingHttpResponse([]),
    "large": lambda: StreamingHttpResponse(_lines(20_000), content_type="text/csv"),
    "async": lambda: StreamingHttpResponse(_alines(), content_type="text/plain"),
    "events": lambda: StreamingHttpResponse(_lines(), content_type="text/event-stream"),
    "status": lambda: StreamingHttpResponse(_lines(), status=206, reason="Some Of It"),
    "length": lambda: StreamingHttpResponse([b"12", b"345"], headers={"Content-Length": "5"}),
    "file": lambda: FileResponse(HERE.open("rb")),
    "download": lambda: FileResponse(io.BytesIO(b"a,b\n1,2\n"), as_attachment=True, filename="Übersicht €.csv"),
    "named": lambda: FileResponse(io.BytesIO(b"x" * 10_000), filename="archive.tar.gz"),
    "typed": lambda: FileResponse(io.BytesIO(b"%PDF"), content_type="application/pdf", filename="a.pdf"),
}


@csrf_exempt
def stream(_request: HttpRequest, case: str) -> HttpResponseBase:
    return STREAMS[case]()


async def astream(_request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_alines(), content_type="text/plain")


@csrf_exempt
def keep_upload(request: HttpRequest) -> JsonResponse:
    """Stores what was uploaded, as FileField does."""
    kept = [default_storage.save(f"kept/{file.name}", file) for file in request.FILES.values()]
    return JsonResponse({"kept": kept, "sizes": [default_storage.size(name) for name in kept]})


# Redirects

TARGETS = {
    "relative": "../other/",
    "absolute-path": "/other/?a=1&b=ü#part",
    "absolute": "https://www.shop.example/other/",
    "other-port": "http://127.0.0.1:1/other/",
    "no-scheme": "//cdn.example/x",
    "query": "?page=2",
    "unicode": "/größe/€/",
    "mail": "mailto:a@shop.example",
    "lazy": reverse_lazy("echo"),
}


class AnyRedirect(http.HttpResponseRedirect):
    allowed_schemes = ["http", "https", "mailto", "app"]


@csrf_exempt
def redirected(_request: HttpRequest, code: int, case: str) -> HttpResponse:
    response = AnyRedirect(TARGETS[case])
    response.status_code = code
    return response


SHORTCUTS: dict[str, Callable[[], HttpResponse]] = {
    "name": lambda: redirect("echo-name", name="ü"),
    "permanent": lambda: redirect("/other/", permanent=True),
    "preserving": lambda: redirect("/other/", preserve_request=True),
    "both": lambda: redirect("/other/", permanent=True, preserve_request=True),
    "no-location": lambda: HttpResponse(status=302),
    "with-body": lambda: HttpResponse("over there", status=303, headers={"Location": "/other/"}),
}


@csrf_exempt
def shortcut(_request: HttpRequest, case: str) -> HttpResponse:
    return SHORTCUTS[case]()


# Errors

ERRORS: dict[str, Callable[[], object]] = {
    "404": lambda: http.Http404("no such thing"),
    "403": lambda: exceptions.PermissionDenied("not you"),
    "400": lambda: exceptions.BadRequest("what is this"),
    "suspicious": lambda: exceptions.SuspiciousOperation("hm"),
    "disallowed-host": lambda: exceptions.DisallowedHost("hm"),
    "disallowed-redirect": lambda: exceptions.DisallowedRedirect("hm"),
    "fields": lambda: exceptions.TooManyFieldsSent("hm"),
    "multipart": lambda: MultiPartParserError("hm"),
    "500": lambda: RuntimeError("a secret"),
    "value": lambda: ValueError("a secret"),
    "validation": lambda: exceptions.ValidationError("not valid"),
    "domain": lambda: DomainError("sold out"),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a secret"),
    "base": lambda: exceptions.ImproperlyConfigured("a secret"),
}


@csrf_exempt
def error(_request: HttpRequest, case: str) -> HttpResponse:
    raise ERRORS[case]()  # type: ignore[misc]


def missing_row(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(get_object_or_404(Note, text="never written"))


def no_response(_request: HttpRequest) -> HttpResponse:
    return None  # type: ignore[return-value]


def after_writing(_request: HttpRequest) -> HttpResponse:
    Note.objects.create(text="written before the error")
    raise exceptions.PermissionDenied


def failing_after_writing(_request: HttpRequest) -> HttpResponse:
    Note.objects.create(text="written before the error")
    raise RuntimeError("a secret")


KINDS: dict[str, Callable[[], HttpResponse]] = {
    "bad-request": lambda: http.HttpResponseBadRequest("bad"),
    "forbidden": lambda: http.HttpResponseForbidden("no"),
    "not-found": lambda: http.HttpResponseNotFound("none"),
    "not-allowed": lambda: http.HttpResponseNotAllowed(["GET", "PUT"]),
    "gone": lambda: http.HttpResponseGone("gone"),
    "server-error": lambda: http.HttpResponseServerError("broken"),
    "not-modified": http.HttpResponseNotModified,
    "bare": lambda: http.HttpResponse(status=418),
}


@csrf_exempt
def kind(_request: HttpRequest, case: str) -> HttpResponse:
    return KINDS[case]()


def handler400(_request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(f"400: {type(exception).__name__}", status=400)


def handler403(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(f"403: {exception} for {request.user.get_username()}", status=403)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(request, "page.html", {"title": f"404: {type(exception).__name__}"}, status=404)


def handler500(_request: HttpRequest) -> HttpResponse:
    return JsonResponse({"error": 500}, status=500)


# Pages


def page(request: HttpRequest) -> TemplateResponse:
    return TemplateResponse(request, "page.html", {"title": request.GET.get("title", "ü")})


@ensure_csrf_cookie
def form_page(request: HttpRequest) -> HttpResponse:
    return render(request, "form.html")


@csrf_protect
def protected(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.POST.get('name')} {digest(request.body) if request.method == 'PUT' else ''}")
