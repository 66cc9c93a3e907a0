"""A session that has ended meanwhile: middleware reads its former data in the replay, but nothing restores it."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.conf import settings
from django.contrib.auth import get_user, login, logout, update_session_auth_hash
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils.decorators import sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin
from django.utils.functional import SimpleLazyObject
from django.views.decorators.csrf import csrf_exempt
from rest_framework.authtoken.models import Token

import broker_django
from broker_django.decorators import queue
from broker_django.ledger import responses
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

OURS = "broker_django.middleware.RequestBrokerMiddleware"
CACHE = "django.contrib.sessions.backends.cache"


@sync_and_async_middleware
def factor(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Reads the session before it reads the user."""
    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            request.factor = await request.session.aget("factor")  # type: ignore[attr-defined]
            request.name = (await request.auser()).get_username()  # type: ignore[attr-defined]
            return await get_response(request)

    else:

        def middleware(request: HttpRequest) -> Any:  # type: ignore[misc]
            request.factor = request.session.get("factor")  # type: ignore[attr-defined]
            request.name = request.user.get_username()  # type: ignore[attr-defined]
            return get_response(request)

    return middleware


@csrf_exempt
@queue("bulk")
def view(request: HttpRequest, act: str) -> JsonResponse:
    if act == "write":
        request.session["cart"] = [1]
    elif act == "log in":
        login(request, User.objects.get(username="bob"), backend="django.contrib.auth.backends.ModelBackend")
    elif act == "device":
        session: Any = request.session
        facts = {"device": session.device, "kind": type(session).__name__}
        return JsonResponse({"factor": str(request.factor), "name": request.name, **facts})  # type: ignore[attr-defined]
    elif act == "log out":
        logout(request)
        return JsonResponse({"name": request.user.get_username()})
    elif act == "change":
        update_session_auth_hash(request, request.user)  # type: ignore[arg-type]
    return JsonResponse({"factor": str(request.factor), "name": request.name})  # type: ignore[attr-defined]


@csrf_exempt
@queue("bulk", wait=2)
def held(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"name": request.name})  # type: ignore[attr-defined]


@csrf_exempt
def later(request: HttpRequest) -> JsonResponse:
    if request.broker.replayed:  # type: ignore[attr-defined]
        return JsonResponse({"factor": str(request.factor), "name": request.name})  # type: ignore[attr-defined]
    return JsonResponse({"id": str(broker_django.dispatch(request, queue="bulk").id)})


urlpatterns = [
    path("later/", later),
    path("held/", held),
    path("view/<str:act>/", view),
    path("broker/", include("broker_django.urls")),
]


@pytest.fixture
def ada(settings: Any) -> User:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE[:-1], f"{__name__}.factor", OURS]
    User.objects.create_user("bob")
    return User.objects.create_user("ada")


def logged_in(client: Any, user: User, factor: Any = "key") -> Any:
    client.force_login(user)
    session = client.session
    session["factor"] = factor
    session.save()
    return client


def flush(client: Any) -> Callable[[], None]:
    return client.session.flush


@pytest.mark.parametrize("engine", [None, CACHE])
@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_an_ended_session_is_read_as_it_was(
    before_replay: Any, settings: Any, ada: User, make: Any, engine: str | None
) -> None:
    if engine:
        settings.SESSION_ENGINE = engine
    given = datetime.date(2026, 1, 2) if engine else "key"
    client = logged_in(make(), ada, given)
    before_replay(flush(client))
    send = client.post if make is Client else async_to_sync(client.post)
    links = json.loads(send("/view/look/").content)["links"]
    get = client.get if make is Client else async_to_sync(client.get)
    assert json.loads(get(links["response"]).content) == {"factor": str(given), "name": "ada"}


@pytest.mark.parametrize("act", ["look", "write", "change"])
def test_an_ended_session_is_not_restored(before_replay: Any, settings: Any, ada: User, act: str) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = True
    client = logged_in(Client(), ada)
    before_replay(flush(client))
    response = client.get(client.post(f"/view/{act}/").json()["links"]["response"])
    assert response.json() == {"factor": "key", "name": "ada"}
    assert not any({"_auth_user_id", "factor"} & session.get_decoded().keys() for session in Session.objects.all())


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize("act", ["look", "write", "held"])
def test_no_cookie_of_an_ended_session_is_sent(
    before_replay: Any, settings: Any, ada: User, act: str, make: Any
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = True
    client = logged_in(make(), ada)
    before_replay(flush(client))
    send = client.post if make is Client else async_to_sync(client.post)
    response = send("/held/" if act == "held" else f"/view/{act}/")
    assert response.status_code == (200 if act == "held" else 202)
    assert "sessionid" not in response.cookies
    assert not responses.fetch(DispatchRecord.objects.get()).cookies


def test_a_view_may_log_in_another(before_replay: Any, ada: User) -> None:
    client = logged_in(Client(), ada)
    before_replay(flush(client))
    client.post("/view/log in/")
    assert "sessionid" in str(responses.fetch(DispatchRecord.objects.get()).cookies)
    assert [session.get_decoded().get("factor", "none") for session in Session.objects.all()] == ["none"]
    assert DispatchRecord.objects.get().state == "succeeded"


def test_a_dispatch_from_code_has_no_past_session(
    before_replay: Any,
    ada: User,
    settings: Any,
    django_capture_on_commit_callbacks: Any,
) -> None:
    client = logged_in(Client(), ada)
    before_replay(flush(client))
    with django_capture_on_commit_callbacks(execute=True):
        said = client.post("/later/").json()
    record = DispatchRecord.objects.get(pk=said["id"])
    assert responses.fetch(record).body == b'{"factor": "key", "name": "ada"}'


def test_an_active_session_is_written_as_usual(ada: User) -> None:
    client = logged_in(Client(), ada)
    client.post("/view/write/")
    assert client.session["cart"] == [1]


# Middleware of the project's own


class SessionStore(db.SessionStore):
    """As django-user-sessions has one: its constructor takes more than a key."""

    def __init__(self, session_key: str | None = None, *, device: str = "") -> None:
        super().__init__(session_key)
        self.device = device


class DeviceMiddleware(MiddlewareMixin):
    """Not a subclass of Django's."""

    def process_request(self, request: HttpRequest) -> None:
        key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        request.session = SessionStore(key, device=request.headers.get("User-Agent", ""))

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if request.session.modified:
            request.session.save()
        return response


class EarlyDeviceMiddleware(DeviceMiddleware):
    def process_request(self, request: HttpRequest) -> None:
        session = SessionStore(request.COOKIES.get(settings.SESSION_COOKIE_NAME), device="read early")
        session.get("factor")
        request.session = session


def asks(get_response: Callable[[HttpRequest], Any]) -> Any:
    """An authentication middleware that has its own way to the session's user."""

    def middleware(request: HttpRequest) -> Any:
        request.user = SimpleLazyObject(lambda: get_user(request))  # type: ignore[assignment]
        return get_response(request)

    return middleware


def knows_tokens(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Sets a user that is not lazy."""

    def middleware(request: HttpRequest) -> Any:
        token = Token.objects.filter(key=request.COOKIES.get("token", "")).first()
        request.user = AnonymousUser() if token is None else token.user
        return get_response(request)

    return middleware


def with_own(settings: Any, name: str, own: Any) -> None:
    """Replace Django's middleware with the test's own."""
    settings.MIDDLEWARE = [
        f"{__name__}.{own.__name__}" if each.endswith(f".{name}") else each for each in settings.MIDDLEWARE
    ]


@pytest.mark.parametrize(("own", "device"), [(DeviceMiddleware, "Fox"), (EarlyDeviceMiddleware, "read early")])
def test_a_session_store_keeps_attributes_set_by_its_middleware(
    before_replay: Any,
    settings: Any,
    ada: User,
    own: Any,
    device: str,
) -> None:
    settings.SESSION_ENGINE = __name__
    with_own(settings, "SessionMiddleware", own)
    client = logged_in(Client(headers={"User-Agent": "Fox"}), ada)
    for fate, factor in ((list, "key"), (flush(client), "key")):
        before_replay(fate)
        shown = client.get(client.post("/view/device/").json()["links"]["response"])
        assert shown.json() == {"factor": factor, "name": "ada", "device": device, "kind": "SessionStore"}


def test_a_custom_session_store_is_written_as_usual(settings: Any, ada: User) -> None:
    settings.SESSION_ENGINE = __name__
    with_own(settings, "SessionMiddleware", DeviceMiddleware)
    client = logged_in(Client(), ada)
    client.post("/view/write/")
    assert client.session["cart"] == [1]


@pytest.mark.parametrize("fate", ["logs out", "changes the password", "goes on"])
def test_custom_middleware_finds_the_accepted_user(
    before_replay: Any,
    settings: Any,
    ada: User,
    fate: str,
) -> None:
    with_own(settings, "AuthenticationMiddleware", asks)
    client = logged_in(Client(), ada)

    def change_password() -> None:
        ada.set_password("another")
        ada.save()

    before_replay({"logs out": flush(client), "changes the password": change_password, "goes on": list}[fate])
    shown = client.post("/view/look/").json()["links"]["response"]
    again = Client()
    again.force_login(ada)
    assert again.get(shown).json() == {"factor": "key", "name": "ada"}


@pytest.mark.parametrize("revoked", [True, False])
def test_custom_middleware_that_sets_a_user_finds_the_accepted_user(
    before_replay: Any,
    settings: Any,
    ada: User,
    revoked: bool,
) -> None:
    settings.REQUEST_BROKER = {"CREDENTIALS": ["cookie:token"]}
    with_own(settings, "AuthenticationMiddleware", knows_tokens)
    token = Token.objects.create(user=ada)
    client = Client()
    client.cookies["token"] = token.key
    before_replay(token.delete if revoked else list)
    response = client.post("/view/look/")
    record = DispatchRecord.objects.get(pk=response.json()["id"])
    assert responses.fetch(record).body == b'{"factor": "None", "name": "ada"}'


@pytest.mark.parametrize("ended", [True, False])
def test_a_view_logs_its_user_out(before_replay: Any, settings: Any, ada: User, ended: bool) -> None:
    client = logged_in(Client(), ada)
    before_replay(flush(client) if ended else list)
    response = client.post("/view/log out/")
    record = DispatchRecord.objects.get(pk=response.json()["id"])
    assert json.loads(responses.fetch(record).body) == {"name": ""}
    assert not Session.objects.exists()


# A session that changes meanwhile


def acts(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Lets the session's user act for another."""

    def middleware(request: HttpRequest) -> Any:
        if "acts for" in request.session:
            request.user = User.objects.get(username=request.session["acts for"])
        return get_response(request)

    return middleware


@pytest.mark.parametrize("acting", [True, False])
@pytest.mark.parametrize("change", ["changed", "added"])
def test_a_session_that_another_request_changed_stays_active(
    before_replay: Any,
    settings: Any,
    ada: User,
    acting: bool,
    change: str,
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE[:-2], f"{__name__}.acts", *settings.MIDDLEWARE[-2:]]
    client = logged_in(Client(), ada)
    session = client.session
    session.update({"acts for": "bob"} if acting else {"acted": "before"})
    session.save()

    def in_another_tab() -> None:
        session = client.session
        session["factor" if change == "changed" else "seen"] = "later"
        session.save()

    before_replay(in_another_tab)
    response = client.post("/view/write/")
    record = DispatchRecord.objects.get(pk=response.json()["id"])
    read = {"factor": "later" if change == "changed" else "key", "name": "bob" if acting else "ada"}
    assert json.loads(responses.fetch(record).body) == read
    assert client.session["cart"] == [1]


def test_a_session_whose_user_no_longer_acts_for_another_has_ended(
    before_replay: Any,
    settings: Any,
    ada: User,
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE[:-2], f"{__name__}.acts", *settings.MIDDLEWARE[-2:]]
    client = logged_in(Client(), ada)
    session = client.session
    session["acts for"] = "bob"
    session.save()

    def stop() -> None:
        session = client.session
        del session["acts for"]
        session.save()

    before_replay(stop)
    response = client.post("/view/write/")
    record = DispatchRecord.objects.get(pk=response.json()["id"])
    assert json.loads(responses.fetch(record).body) == {"factor": "key", "name": "bob"}
    assert "cart" not in client.session
