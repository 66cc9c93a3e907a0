"""Findings from third-party test suites: client and middleware see the same as without the broker."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.contrib.sessions.backends.db import SessionStore
from django.core.signals import request_finished, request_started
from django.db import connection
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseNotModified,
    HttpResponsePermanentRedirect,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import include, path
from django.utils.functional import empty
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.generic import TemplateView
from rest_framework.response import Response
from rest_framework.views import APIView

from broker_django.http import to_response, to_response_message
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from django.http.response import HttpResponseBase

pytestmark = [pytest.mark.urls(__name__), pytest.mark.usefixtures("everything_queued")]


class WithoutAuthentication(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Any) -> Response:
        return Response({"user": request.user.get_username()})


def greet(request: HttpRequest) -> HttpResponse:
    messages.info(request, "Hello.")
    return HttpResponse("greeted")


class Page(TemplateView):
    template_name = "page.html"


def sign_in(request: HttpRequest) -> HttpResponse:
    login(request, User.objects.get(username="ann"))
    return HttpResponse("signed in")


def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("signed out")


def lines(_request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"one\n", b"two\n"]), content_type="text/plain")


async def async_lines(_request: HttpRequest) -> StreamingHttpResponse:
    async def each() -> AsyncIterator[bytes]:
        yield b"one\n"
        yield b"two\n"

    return StreamingHttpResponse(each(), content_type="text/plain")


def download(_request: HttpRequest) -> FileResponse:
    return FileResponse(BytesIO(b"a,b\n"), as_attachment=True, filename="rows.csv")


def remote_user(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.user.get_username())


@csrf_exempt
def checks_on_its_own(request: HttpRequest) -> HttpResponseBase:
    return csrf_protect(greet)(request)


def another_user(request: HttpRequest) -> HttpResponse:
    """API frameworks replace the session and reset the lazy user, so that it is found again."""
    request.session = SessionStore(request.GET["session"])
    del request._cached_user
    request.user._wrapped = empty
    return HttpResponse(request.user.get_username())


urlpatterns = [
    path("checks-on-its-own/", checks_on_its_own),
    path("another-user/", another_user),
    path("broker/", include("broker_django.urls")),
    path("open/", WithoutAuthentication.as_view()),
    path("behind-login/", login_required(WithoutAuthentication.as_view())),
    path("greet/", greet),
    path("remote-user/", remote_user),
    path("page/", Page.as_view(extra_context={"color": "green"})),
    path("sign-in/", sign_in),
    path("sign-out/", sign_out),
    path("lines/", lines),
    path("async-lines/", async_lines),
    path("download/", download),
]


def greeting_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        if "HTTP_X_GREETED" not in request.META:
            request.META["HTTP_X_GREETED"] = "1"
            messages.info(request, "From outside.")
        return get_response(request)

    return middleware


def texts(request: HttpRequest) -> list[str]:
    return [message.message for message in get_messages(request)]


def stored(response: HttpResponseBase) -> HttpResponse:
    return to_response(to_response_message(response, 1000))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_stored_redirect_has_its_url(status: int) -> None:
    assert stored(HttpResponse(status=status, headers={"Location": "/there/"})).url == "/there/"


@pytest.mark.parametrize("permanent", [False, True])
def test_a_stored_redirect_that_preserves_the_request_is_of_djangos_class(permanent: bool) -> None:
    response = stored(redirect("/there/", permanent=permanent, preserve_request=True))
    kind = HttpResponsePermanentRedirect if permanent else HttpResponseRedirect
    assert isinstance(response, kind)
    assert (response.status_code, response.url) == (308 if permanent else 307, "/there/")


def test_a_stored_redirect_keeps_a_scheme_that_only_its_view_allows() -> None:
    class ToAnApp(HttpResponseRedirect):
        allowed_schemes = ["myapp"]

    assert stored(ToAnApp("myapp://open")).url == "myapp://open"


def test_a_stored_304_is_of_djangos_class() -> None:
    assert isinstance(stored(HttpResponseNotModified()), HttpResponseNotModified)


def test_an_eager_replay_keeps_the_connections_of_the_request_open(client: Client, monkeypatch: Any) -> None:
    closed = []
    monkeypatch.setattr(connection, "close", lambda: closed.append(True))
    assert client.get("/greet/").content == b"greeted"
    assert not closed


def test_a_drf_view_does_not_change_djangos_user(client: Client) -> None:
    ann = User.objects.create_user("ann")
    client.force_login(ann)
    assert client.get("/open/").json() == {"user": ""}
    assert client.get("/behind-login/").json() == {"user": ""}
    assert set(DispatchRecord.objects.values_list("user", flat=True)) == {str(ann.pk)}


def test_a_decorator_runs_before_the_drf_view_that_it_wraps(client: Client) -> None:
    response = client.get("/behind-login/")
    assert (response.status_code, response.url) == (302, "/accounts/login/?next=/behind-login/")


@pytest.mark.parametrize("storage", ["session.SessionStorage", "cookie.CookieStorage", "fallback.FallbackStorage"])
def test_messages_of_the_replay_reach_the_outer_request_and_the_client(client: Client, storage: str) -> None:
    with override_settings(MESSAGE_STORAGE=f"django.contrib.messages.storage.{storage}"):
        assert texts(client.get("/greet/").wsgi_request) == ["Hello."]
        assert texts(client.get("/open/").wsgi_request) == ["Hello."]


def test_messages_of_outer_middleware_are_not_lost(client: Client, settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE[:-1], f"{__name__}.greeting_middleware", settings.MIDDLEWARE[-1]]
    assert texts(client.get("/greet/").wsgi_request) == ["From outside.", "Hello."]


def test_asgi_requests_run_through_the_asynchronous_middleware(async_client: AsyncClient, settings: Any) -> None:
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.RemoteUserBackend"]
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE[:-1],
        "django.contrib.auth.middleware.RemoteUserMiddleware",
        settings.MIDDLEWARE[-1],
    ]
    response = async_to_sync(async_client.get)("/remote-user/", REMOTE_USER="ann")
    assert response.content == b"ann"
    assert "sessionid" in async_client.cookies
    assert async_client.cookies["sessionid"].value


def test_a_content_length_may_be_a_number(client: Client) -> None:
    assert client.post("/greet/", b"x=1", "application/x-www-form-urlencoded", CONTENT_LENGTH=3).status_code == 200


def test_a_stored_cookie_has_its_age_as_a_number() -> None:
    response = HttpResponse()
    response.set_cookie("language", "pl", max_age=60)
    assert stored(response).cookies["language"]["max-age"] == 60


PAGES = {"OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", {"page.html": "It is {{ color }}."})]}}


def test_an_eager_replay_returns_a_response_of_the_views_own_class(client: Client, settings: Any) -> None:
    settings.TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", **PAGES}]
    response = client.get("/page/")
    assert isinstance(response, TemplateResponse)
    assert (response.template_name, response.context_data["color"]) == (["page.html"], "green")
    assert response.content == b"It is green."
    assert DispatchRecord.objects.get().state == "succeeded"


class Appending:
    """Middleware that changes what a view renders."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_template_response(self, _request: HttpRequest, response: TemplateResponse) -> TemplateResponse:
        response.context_data["color"] += "!"
        return response


def test_a_rendered_response_is_not_rendered_again(client: Client, settings: Any) -> None:
    settings.TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", **PAGES}]
    settings.MIDDLEWARE = [f"{__name__}.Appending", *settings.MIDDLEWARE]
    response = client.get("/page/")
    assert response.context_data["color"] == "green!"
    assert response.content == b"It is green!."


def test_an_eager_replay_returns_the_data_of_a_drf_response(client: Client) -> None:
    assert client.get("/open/").data == {"user": ""}


def test_a_streamed_response_stays_streamed(client: Client) -> None:
    response = client.get("/lines/")
    assert response.streaming
    assert b"".join(response.streaming_content) == b"one\ntwo\n"


def test_an_asynchronously_streamed_response_stays_streamed(async_client: AsyncClient) -> None:
    async def read() -> bytes:
        response = await async_client.get("/async-lines/")
        return b"".join([chunk async for chunk in response.streaming_content])

    assert async_to_sync(read)() == b"one\ntwo\n"


def test_a_file_response_stays_a_file_response(client: Client) -> None:
    response = client.get("/download/")
    assert isinstance(response, FileResponse)
    assert (response.filename, response.getvalue()) == ("rows.csv", b"a,b\n")
    assert response["Content-Length"] == "4"


def test_the_outer_middleware_sees_logins_and_logouts(client: Client) -> None:
    ann = User.objects.create_user("ann")
    assert client.get("/sign-in/").wsgi_request.user == ann
    assert client.get("/greet/").wsgi_request.user == ann
    assert client.get("/sign-out/").wsgi_request.user.is_anonymous


def test_an_eager_replay_sends_no_request_signals(client: Client) -> None:
    seen = []

    def note(signal: Any, **_: Any) -> None:
        seen.append("started" if signal is request_started else "finished")

    for signal in (request_started, request_finished):
        signal.connect(note)
    try:
        client.get("/greet/")
    finally:
        for signal in (request_started, request_finished):
            signal.disconnect(note)
    assert seen == ["started", "finished"]


@pytest.mark.parametrize("path", ["/greet/", "/checks-on-its-own/"])
def test_a_view_that_checks_csrf_itself_still_does(path: str) -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.post(path).status_code == 403
    token = get_token(RequestFactory().get("/"))
    client.cookies["csrftoken"] = token
    assert client.post(path, {"csrfmiddlewaretoken": token}).status_code == 200


def test_a_view_may_exchange_the_session_and_ask_for_the_user_again(client: Client) -> None:
    other = Client()
    other.force_login(User.objects.create_user("eve"))
    client.force_login(User.objects.create_user("ann"))
    assert client.get("/another-user/", {"session": other.session.session_key}).content == b"eve"


@pytest.mark.parametrize("path", ["/page/", "/open/"])
def test_outer_middleware_can_cache_the_response_of_an_eager_replay(client: Client, settings: Any, path: str) -> None:
    settings.TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", **PAGES}]
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        "django.middleware.cache.FetchFromCacheMiddleware",
        *settings.MIDDLEWARE,
    ]
    first = client.get(path)
    assert client.get(path).content == first.content
