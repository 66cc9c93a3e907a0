"""A session that has ended meanwhile: the middleware around the broker reads it as it was, and nobody has it again."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpRequest, JsonResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils.decorators import sync_and_async_middleware
from django.views.decorators.csrf import csrf_exempt

import broker_django
from broker_django import results
from broker_django.decorators import queue
from broker_django.models import DispatchRecord
from tests.integration.test_users import before_replay  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

OURS = "broker_django.middleware.RequestBrokerMiddleware"
CACHE = "django.contrib.sessions.backends.cache"


@sync_and_async_middleware
def factor(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Goes by the session before it asks for the user."""
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
    return JsonResponse({"id": str(broker_django.dispatch(request, queue="bulk").pk)})


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
def test_is_read_as_it_was(before_replay: Any, settings: Any, ada: User, make: Any, engine: str | None) -> None:  # noqa: F811
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
def test_nothing_of_it_is_there_again(before_replay: Any, settings: Any, ada: User, act: str) -> None:  # noqa: F811
    settings.SESSION_SAVE_EVERY_REQUEST = True
    client = logged_in(Client(), ada)
    before_replay(flush(client))
    response = client.get(client.post(f"/view/{act}/").json()["links"]["response"])
    assert response.json() == {"factor": "key", "name": "ada"}
    assert not any({"_auth_user_id", "factor"} & session.get_decoded().keys() for session in Session.objects.all())


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize("act", ["look", "write", "held"])
def test_no_cookie_of_it_is_handed_out(before_replay: Any, settings: Any, ada: User, act: str, make: Any) -> None:  # noqa: F811
    settings.SESSION_SAVE_EVERY_REQUEST = True
    client = logged_in(make(), ada)
    before_replay(flush(client))
    send = client.post if make is Client else async_to_sync(client.post)
    response = send("/held/" if act == "held" else f"/view/{act}/")
    assert response.status_code == (200 if act == "held" else 202)
    assert "sessionid" not in response.cookies
    assert not results.fetch(DispatchRecord.objects.get()).cookies


def test_a_view_may_log_in_another(before_replay: Any, ada: User) -> None:  # noqa: F811
    client = logged_in(Client(), ada)
    before_replay(flush(client))
    client.post("/view/log in/")
    assert "sessionid" in str(results.fetch(DispatchRecord.objects.get()).cookies)
    assert [session.get_decoded().get("factor", "none") for session in Session.objects.all()] == ["none"]
    assert DispatchRecord.objects.get().state == "succeeded"


def test_of_a_request_that_code_dispatched(
    before_replay: Any,  # noqa: F811
    ada: User,
    settings: Any,
    django_capture_on_commit_callbacks: Any,
) -> None:
    client = logged_in(Client(), ada)
    before_replay(flush(client))
    with django_capture_on_commit_callbacks(execute=True):
        said = client.post("/later/").json()
    record = DispatchRecord.objects.get(pk=said["id"])
    assert results.fetch(record).body == b'{"factor": "key", "name": "ada"}'


def test_one_that_goes_on_is_written_as_ever(ada: User) -> None:
    client = logged_in(Client(), ada)
    client.post("/view/write/")
    assert client.session["cart"] == [1]
