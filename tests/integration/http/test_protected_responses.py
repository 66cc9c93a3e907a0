"""A stored response is sent unchanged: middleware around a held request or a poll does not change it."""

from __future__ import annotations

import gzip
import json
import pickle
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from csp.constants import NONCE
from csp.decorators import csp_exempt, csp_replace, csp_update
from django.core.signals import request_finished
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.utils.cache import patch_vary_headers
from django.views.decorators.cache import cache_control
from django.views.decorators.clickjacking import xframe_options_exempt, xframe_options_sameorigin
from rest_framework.response import Response
from rest_framework.views import APIView

from broker_django.http import protected, to_response, to_response_message
from broker_django.http.protected_responses import ProtectedResponse
from tests.site.models import Execution

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from django.http.response import HttpResponseBase

    Get = Callable[..., HttpResponseBase]

pytestmark = pytest.mark.urls(__name__)

TEXT = "All that the view says, again and again. " * 50
DJANGOS_CSP = find_spec("django.middleware.csp") is not None


def page(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(TEXT)


def tagged(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(TEXT, headers={"ETag": '"one"', "Last-Modified": "Mon, 23 Nov 2026 01:29:07 GMT"})


def in_german(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(TEXT, headers={"Content-Language": "de", "Referrer-Policy": "unsafe-url", "Vary": "X-Theme"})


def encoded(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(gzip.compress(TEXT.encode(), mtime=0), headers={"Content-Encoding": "gzip"})


def missing(_request: HttpRequest) -> HttpResponse:
    return JsonResponse({"detail": TEXT}, status=404)


def away(_request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/elsewhere/")


def lines(_request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([TEXT.encode()] * 3))


async def async_lines(_request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield TEXT.encode()

    return StreamingHttpResponse(chunks())


class Rest(APIView):
    def get(self, _request: Any) -> Response:
        return Response({"text": TEXT})


def nonce(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.csp_nonce} {TEXT}")


VIEWS: dict[str, Callable[..., Any]] = {
    "page": page,
    "tagged": tagged,
    "in-german": in_german,
    "encoded": encoded,
    "missing": missing,
    "away": away,
    "lines": lines,
    "rest": Rest.as_view(),
    "framed": xframe_options_exempt(page),
    "framed-here": xframe_options_sameorigin(page),
    "without-csp": csp_exempt()(page),
    "csp-update": csp_update({"img-src": "cdn.example"})(page),
    "csp-replace": csp_replace({"default-src": ["'none'"]})(page),
    "cached": cache_control(max_age=60, private=True)(page),
}
if DJANGOS_CSP:
    from django.views.decorators.csp import csp_override, csp_report_only_override

    VIEWS["csp-override"] = csp_override({"default-src": ["'none'"]})(page)
    VIEWS["no-csp-override"] = csp_override({})(page)
    VIEWS["csp-report"] = csp_report_only_override({"default-src": ["'none'"]})(page)

urlpatterns = [
    *(path(f"{name}/", view) for name, view in VIEWS.items()),
    path("nonce/", nonce),
    path("async-lines/", async_lines),
    path("broker/", include("broker_django.urls")),
]


class Stamps:
    """A project's own middleware: it sets, reads back, changes and removes fields, and encodes the body again."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.broker.replayed or not request.headers.get("X-Stamp"):
            return response
        response["X-Stamp"] = "1"
        response.headers["X-Stamp"] += "2"
        assert response["X-Stamp"] == "12"
        del response["Content-Type"]
        response.headers.pop("X-Frame-Options", None)
        response.headers.setdefault("X-Also", "yes")
        patch_vary_headers(response, ["X-Stamp"])
        if not response.streaming:
            response.content = b"stamped"
            response.write(b"stamped")
        response.status_code, response.reason_phrase = 299, "Stamped"
        return response


class Envelope:
    """Middleware of an API: it wraps responses, and refuses users that it no longer knows."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if "X-Unknown" in request.headers:
            return JsonResponse({"error": "unknown"}, status=403)
        if response.status_code == 202 or not response["Content-Type"].startswith("application/json"):
            return response
        enveloped = JsonResponse({"data": json.loads(body(response))}, status=response.status_code)
        enveloped.set_cookie("seen", "1")
        return enveloped


class CarefulEnvelope(Envelope):
    """It recognises stored responses, which have passed it before."""

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        return response if request.broker.stored else Envelope(lambda _request: response)(request)


MIDDLEWARE = [
    f"{__name__}.Stamps",
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    *(["django.middleware.csp.ContentSecurityPolicyMiddleware"] if DJANGOS_CSP else []),
    "broker_django.middleware.RequestBrokerMiddleware",
]


@pytest.fixture(autouse=True)
def surrounded(settings: Any) -> None:
    settings.MIDDLEWARE = MIDDLEWARE
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": ["'self'", NONCE]}}
    settings.CORS_ALLOWED_ORIGINS = ["https://app.example", "https://other.example"]
    settings.CORS_EXPOSE_HEADERS = ["Location"]
    settings.CORS_ALLOW_CREDENTIALS = True
    settings.SECURE_CSP = {"default-src": ["'self'"]}
    settings.SECURE_CSP_REPORT_ONLY = {"img-src": ["'self'"]}


QUEUED = {"QUEUES": {"bulk": {"wait": 5}}, "RULES": [{"when": "!request.path.startsWith('/broker')", "queue": "bulk"}]}
ACCEPTED = {"RULES": QUEUED["RULES"]}


@pytest.fixture(params=["wsgi", "asgi"])
def get(request: pytest.FixtureRequest, client: Client) -> Get:
    """A client's method, over either interface."""
    if request.param == "wsgi":
        return client.get
    return async_to_sync(AsyncClient().get)


def directly(get: Get, url: str, **headers: str) -> HttpResponseBase:
    with override_settings(REQUEST_BROKER={}):
        return get(url, headers=headers)


def held(get: Get, url: str, **headers: str) -> HttpResponseBase:
    with override_settings(REQUEST_BROKER=QUEUED):
        return get(url, headers=headers)


def polled(get: Get, url: str, _poll: dict[str, str] | None = None, **headers: str) -> HttpResponseBase:
    with override_settings(REQUEST_BROKER=ACCEPTED):
        accepted = get(url, headers=headers)
        assert accepted.status_code == 202
        return get(f"{accepted['Location']}response/", headers=headers if _poll is None else _poll)


def body(response: HttpResponseBase) -> bytes:
    return b"".join(response) if response.streaming else response.content


def sent(response: HttpResponseBase) -> dict[str, Any]:
    """Returns the response as a server sends it."""
    fields = {name.lower(): value for name, value in response.items()}
    if fields.get("content-encoding") == "gzip":  # Django's middleware adds random bytes
        fields.pop("content-length", None)
        text = gzip.decompress(body(response))
    else:
        text = body(response)
    return {"status": response.status_code, "reason": response.reason_phrase, "fields": fields, "body": text}


def of_a_poll(answer: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Returns what was sent, without the endpoint's own cache headers: its URL belongs to one client."""
    fields, own = dict(answer["fields"]), dict(expected["fields"])
    assert "private" in fields.pop("cache-control")
    varies = {name.strip().lower() for name in fields.pop("vary", "").split(",")}
    assert {name.strip().lower() for name in own.get("vary", "").split(",")} - {""} <= varies
    kept = {name: own[name] for name in ("cache-control", "vary") if name in own}
    return {**answer, "fields": {**fields, **kept}}


PLAIN: dict[str, str] = {}
FULL = {
    "Accept-Encoding": "gzip",
    "Origin": "https://app.example",
    "Accept-Language": "de",
    "If-None-Match": '"another"',
}


@pytest.mark.parametrize("headers", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_response_is_the_same_directly_held_and_polled(get: Get, name: str, headers: dict[str, str]) -> None:
    expected = sent(directly(get, f"/{name}/", **headers))
    assert sent(held(get, f"/{name}/", **headers)) == expected
    assert of_a_poll(sent(polled(get, f"/{name}/", **headers)), expected) == expected


@pytest.mark.parametrize("name", VIEWS)
def test_middleware_may_do_anything_around_a_stored_response(get: Get, name: str) -> None:
    expected = sent(directly(get, f"/{name}/"))
    stamped = {"X-Stamp": "please"}
    assert sent(held(get, f"/{name}/", **stamped)) == expected
    assert of_a_poll(sent(polled(get, f"/{name}/", stamped)), expected) == expected
    assert directly(get, f"/{name}/", **stamped).status_code == 299


KEEPS = "broker_django.middleware.StoredResponseMiddleware"
ENVELOPES = {
    "recognised": ["CarefulEnvelope"],
    "kept": [KEEPS, "Envelope"],
    "kept and recognised": [KEEPS, "CarefulEnvelope"],
}


@pytest.fixture(params=ENVELOPES)
def enveloped(request: pytest.FixtureRequest, settings: Any) -> None:
    entries = [each if "." in each else f"{__name__}.{each}" for each in ENVELOPES[request.param]]
    settings.MIDDLEWARE = [*entries, *MIDDLEWARE]


@pytest.mark.usefixtures("enveloped")
@pytest.mark.parametrize("name", ["rest", "missing", "page"])
def test_an_envelope_is_put_around_a_response_once(get: Get, name: str) -> None:
    expected = sent(directly(get, f"/{name}/"))
    assert sent(held(get, f"/{name}/")) == expected
    answer = polled(get, f"/{name}/")
    assert of_a_poll(sent(answer), expected) == expected
    assert answer["Cache-Control"] == "private, no-store"


def test_fields_of_middleware_about_the_exchange_are_added_to_a_stored_response(get: Get, settings: Any) -> None:
    settings.MIDDLEWARE = [KEEPS, "corsheaders.middleware.CorsMiddleware", f"{__name__}.Envelope", *MIDDLEWARE]
    answer = polled(get, "/rest/", {"Origin": "https://other.example"})
    assert answer["Access-Control-Allow-Origin"] == "https://other.example"
    assert answer.cookies["seen"].value == "1"
    refused = polled(get, "/rest/", {"X-Unknown": "1"})
    assert (refused.status_code, json.loads(body(refused))) == (403, {"error": "unknown"})


def test_header_fields_of_a_poll_do_not_change_the_stored_response(get: Get) -> None:
    expected = sent(directly(get, "/page/"))
    asked = {"Accept-Encoding": "gzip", "Accept-Language": "de"}
    assert of_a_poll(sent(polled(get, "/page/", asked)), expected) == expected
    compressed = polled(get, "/page/", {"Accept-Encoding": "gzip"}, **asked)
    assert compressed["Content-Encoding"] == "gzip"
    assert gzip.decompress(body(compressed)).decode() == TEXT
    assert compressed["Content-Language"] == "de"


def test_a_poll_that_does_not_accept_the_coding_gets_the_response_without_it(get: Get) -> None:
    for asked in ({}, {"Accept-Encoding": "br"}):
        answer = polled(get, "/page/", asked, **{"Accept-Encoding": "gzip"})
        assert body(answer).decode() == TEXT
        assert not answer.has_header("Content-Encoding")
        assert answer["Content-Length"] == str(len(body(answer)))


def test_cors_fields_are_those_of_the_poll(get: Get) -> None:
    answer = polled(get, "/page/", {"Origin": "https://other.example"}, Origin="https://app.example")
    assert answer["Access-Control-Allow-Origin"] == "https://other.example"
    assert answer["Access-Control-Expose-Headers"] == "Location"
    answer = polled(get, "/page/", {"Origin": "https://app.example"})
    assert answer["Access-Control-Allow-Origin"] == "https://app.example"


def test_the_202_and_the_status_are_as_any_other_response(get: Get) -> None:
    with override_settings(REQUEST_BROKER=ACCEPTED):
        accepted = get("/framed/")
        status = get(accepted.json()["links"]["self"])
    for response in (accepted, status):
        assert response["X-Frame-Options"] == "DENY"
        assert "default-src" in response["Content-Security-Policy"]


@pytest.mark.parametrize("form", [held, polled])
def test_djangos_clients_see_no_body_of_head(client: Client, form: Callable[..., Any]) -> None:
    for name in ("page", "lines", "rest"):
        response = form(client.head, f"/{name}/")
        assert body(response) == b""


def test_a_nonce_is_that_of_the_replay(get: Get, settings: Any) -> None:
    settings.MIDDLEWARE = [entry for entry in MIDDLEWARE if not entry.startswith("django.middleware.csp")]
    for response in (held(get, "/nonce/"), polled(get, "/nonce/")):
        used = body(response).decode().partition(" ")[0]
        assert f"'nonce-{used}'" in response["Content-Security-Policy"]


@pytest.mark.skipif(not DJANGOS_CSP, reason="Django has no CSP middleware before 6.0")
def test_a_nonce_of_djangos_middleware_is_that_of_the_replay(get: Get, settings: Any) -> None:
    from django.utils.csp import CSP

    settings.MIDDLEWARE = [entry for entry in MIDDLEWARE if entry != "csp.middleware.CSPMiddleware"]
    settings.SECURE_CSP = {"script-src": [CSP.SELF, CSP.NONCE]}
    for form in (held, polled):
        with override_settings(ROOT_URLCONF=DjangosNonce):
            response = form(get, "/")
        assert f"'nonce-{body(response).decode()}'" in response["Content-Security-Policy"]


class DjangosNonce:
    @staticmethod
    def _view(request: HttpRequest) -> HttpResponse:
        from django.middleware.csp import get_nonce

        return HttpResponse(str(get_nonce(request)))

    urlpatterns = [
        path("", _view.__func__),
        path("broker/", include("broker_django.urls")),
    ]


def stored(response: HttpResponse) -> HttpResponse:
    return protected(to_response(to_response_message(response, 10_000)))


def test_only_stored_responses_are_protected() -> None:
    response = HttpResponse("fresh")
    assert protected(response) is response
    response["X-Late"] = "1"
    assert response["X-Late"] == "1"


def test_fields_are_read_as_they_are_sent() -> None:
    response = stored(HttpResponse("text", headers={"X-One": "1"}))
    response["X-Two"] = "2"
    response["x-one"] = "3"
    del response["X-ONE"]
    assert (
        dict(response.items()) == dict(response.headers) == {"Content-Type": "text/html; charset=utf-8", "X-One": "1"}
    )
    assert "X-Two" not in response and not response.has_header("X-Two")
    assert response.get("X-Two", "none") == response.headers.get("X-Two", "none") == "none"
    assert b"X-Two" not in response.serialize_headers()
    assert (response.headers.pop("X-Nowhere", "none"), len(response.headers)) == ("none", 2)
    with pytest.raises(KeyError):
        response["X-Three"]


class OwnResponse(HttpResponse):
    """Of a project."""


@pytest.mark.parametrize("make", [HttpResponse, OwnResponse, partial(HttpResponseRedirect, "/there/"), JsonResponse])
def test_a_protected_response_can_be_pickled_and_keeps_its_class(make: Any) -> None:
    original = make({})
    response = protected(to_response(to_response_message(original, 1000)))
    again = pickle.loads(pickle.dumps(response))
    for each in (response, again):
        each["X-Late"] = "1"
        each.set_cookie("late", "1")
        assert dict(each.items()) == dict(original.items())
        assert each.content == original.content
        assert type(each).__name__ == type(to_response(to_response_message(original, 1000))).__name__
    assert isinstance(again, HttpResponse)


def test_an_eager_replays_own_object_is_protected_too(client: Client, settings: Any) -> None:
    with override_settings(REQUEST_BROKER=QUEUED):
        response = client.get("/rest/", headers={"X-Stamp": "please"})
    assert isinstance(response, Response) and response.data == {"text": TEXT}
    assert "X-Stamp" not in response
    assert type(response).__name__ == "Response"


@pytest.mark.parametrize("form", [held, polled])
@pytest.mark.parametrize("name", ["page", "tagged", "missing", "away", "rest"])
def test_a_response_that_was_sent_can_be_changed(get: Get, name: str, form: Callable[..., Any]) -> None:
    response = form(get, f"/{name}/")
    response["Content-Type"] = response["X-Late"] = "text/late"
    response.status_code, response.content = 299, b"late"
    response.set_cookie("late", "1")
    response.set_cookie("late", "2")
    assert (response.status_code, response.content, response.cookies["late"].value) == (299, b"late", "2")
    assert {"Content-Type": "text/late", "X-Late": "text/late"}.items() <= dict(response.items()).items()
    assert not isinstance(response, ProtectedResponse)


@pytest.fixture
def finished() -> Iterator[list[str]]:
    """Returns the signals of finished requests after the replay."""
    signals: list[str] = []

    def note(**_: Any) -> None:
        signals.append("finished")

    request_finished.connect(note)
    yield signals
    request_finished.disconnect(note)


def test_a_stream_is_finished_when_it_was_read(get: Get, finished: list[str]) -> None:
    response = held(get, "/lines/")
    assert response.streaming and finished == []
    assert body(response) == TEXT.encode() * 3
    assert finished == ["finished"]


def test_an_async_stream_is_finished_when_it_was_read(finished: list[str]) -> None:
    async def read() -> bytes:
        response = await AsyncClient().get("/async-lines/")
        assert response.streaming and response.is_async and finished == []
        return b"".join([chunk async for chunk in response])

    with override_settings(REQUEST_BROKER=QUEUED):
        assert async_to_sync(read)() == TEXT.encode() * 3
    assert finished == ["finished"]


@pytest.mark.parametrize("method", ["get", "head"])
def test_middleware_around_a_stream_is_run_through(client: Client, settings: Any, method: str) -> None:
    settings.MIDDLEWARE = [f"{__name__}.Shouts", *MIDDLEWARE]
    Shouts.closed.clear()
    response = held(getattr(client, method), "/lines/")
    assert body(response) == (TEXT.encode() * 3 if method == "get" else b"")
    assert Shouts.closed == (["replay", "exchange"] if method == "get" else ["replay"])


class Shouts:
    """Middleware that wraps a stream, and acts after its end."""

    closed: list[str] = []

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        response = self.get_response(request)
        response.streaming_content = self._shouted(request, response.streaming_content)
        return response

    def _shouted(self, request: HttpRequest, chunks: Any) -> Iterator[bytes]:
        replayed = request.broker.replayed
        try:
            for chunk in chunks:
                yield chunk if replayed else chunk.upper()
        finally:
            self.closed.append("replay" if replayed else "exchange")


def test_a_response_that_was_rendered_is_protected(rf: Any) -> None:
    response = TemplateResponse(rf.get("/"), "any.html")
    response.content = "rendered"
    assert stored(response).content == b"rendered"


@pytest.fixture
def replays_are_left_alone(settings: Any) -> Iterator[None]:
    settings.MIDDLEWARE = [f"{__name__}.LimitsRates", f"{__name__}.AsyncLooksOn", *MIDDLEWARE]
    LimitsRates.seen.clear()
    yield


class LimitsRates:
    """Middleware that steps aside for a replay, before anything else has run."""

    seen: list[tuple[bool, Any]] = []

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        broker = getattr(request, "broker", None)
        replayed = broker is not None and broker.replayed
        self.seen.append((replayed, broker.id if replayed else None))
        if not replayed and Execution.objects.exists():
            return HttpResponse("too many", status=429)
        if not replayed:
            Execution.objects.create()
        return self.get_response(request)


class AsyncLooksOn:
    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Any) -> None:
        from asgiref.sync import markcoroutinefunction

        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        before = getattr(request, "broker", None)
        response = await self.get_response(request)
        assert before is None or request.broker is before
        return response


@pytest.mark.usefixtures("replays_are_left_alone")
def test_middleware_can_recognise_a_replay_before_it_runs(get: Get) -> None:
    response = held(get, "/page/")
    assert response.status_code == 200
    (_, nothing), (replayed, dispatch) = LimitsRates.seen
    assert nothing is None and replayed and dispatch is not None
    assert held(get, "/page/").status_code == 429
