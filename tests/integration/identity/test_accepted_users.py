"""Middleware finds the accepted user in a replay, even if the session no longer names a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.test import AsyncClient, Client, RequestFactory
from django.urls import include, path
from django.utils.decorators import sync_and_async_middleware
from django.views.decorators.cache import cache_page
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.vary import vary_on_cookie

import broker_django
from broker_django.decorators import queue
from broker_django.ledger import responses
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_core.dispatches import Dispatch

pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

OURS = "broker_django.middleware.RequestBrokerMiddleware"


@sync_and_async_middleware
def account(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Sets the user's account before the view, and an attribute of a second factor."""
    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            request.account = (await request.auser()).get_username()  # type: ignore[attr-defined]
            return await get_response(request)

    else:

        def middleware(request: HttpRequest) -> Any:  # type: ignore[misc]
            request.account = request.user.get_username()  # type: ignore[attr-defined]
            request.user.verified = True  # type: ignore[union-attr]
            return get_response(request)

    return middleware


class Wall:
    """A login wall, as projects had it before Django had one."""

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        if not request.user.is_authenticated and not request.path.startswith("/broker/"):
            return redirect("/login/")
        return self.get_response(request)


class Impersonation:
    """One user acts for another, as long as the session says so."""

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        name = request.session.get("acts_for")
        request.impersonator = None  # type: ignore[attr-defined]
        if name and request.user.is_authenticated:
            request.impersonator = request.user.get_username()  # type: ignore[attr-defined]
            request.user = User.objects.get(username=name)
        return self.get_response(request)


@csrf_exempt
@queue("bulk")
def view(request: HttpRequest) -> JsonResponse:
    names = ("account", "impersonator")
    present = {name: getattr(request, name) for name in names if hasattr(request, name)}
    verified = getattr(request.user, "verified", False)
    return JsonResponse({"user": request.user.get_username(), "verified": verified, **present})


@cache_page(60)
@vary_on_cookie
def dashboard(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.user.get_username() or "nobody")


urlpatterns = [
    path("view/", view),
    path("dashboard/", dashboard),
    path("broker/", include("broker_django.urls")),
]


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def around(settings: Any) -> Callable[[str], None]:
    def put(name: str) -> None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE[:-1], f"{__name__}.{name}", OURS]

    return put


def answered(dispatch: Dispatch | DispatchRecord) -> Any:
    record = DispatchRecord.objects.get(pk=dispatch.id)
    assert record.state == "succeeded", record.error
    return responses.fetch(record)


def logged_in(client: Any, user: User) -> Any:
    client.force_login(user)
    return client


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_the_user_of_an_ended_session_is_found(before_replay: Any, ada: User, around: Any, make: Any) -> None:
    around("account")
    client = logged_in(make(), ada)
    before_replay(lambda: client.session.flush())  # noqa: PLW0108 - the session of that moment
    if make is Client:
        client.post("/view/")
    else:
        from asgiref.sync import async_to_sync

        async_to_sync(client.post)("/view/")
    seen = answered(DispatchRecord.objects.get())
    body = seen.body.decode()
    assert '"user": "ada"' in body
    assert '"account": "ada"' in body


@pytest.mark.parametrize("given", ["path", "request"])
def test_the_user_of_a_dispatch_from_code_is_found(
    django_capture_on_commit_callbacks: Any, ada: User, around: Any, given: str
) -> None:
    around("account")
    around("Wall")
    with django_capture_on_commit_callbacks(execute=True):
        if given == "path":
            record = broker_django.dispatch("/view/", user=ada, queue="bulk")
        else:
            request = RequestFactory().get("/view/")
            request.user = ada
            record = broker_django.dispatch(request, queue="bulk")
    assert b'"user": "ada", "verified": true, "account": "ada"' in answered(record).body


def test_a_user_who_acts_for_another_still_does(before_replay: Any, ada: User, around: Any) -> None:
    around("Impersonation")
    bob, client = User.objects.create_user("bob"), logged_in(Client(), ada)
    session = client.session
    session["acts_for"] = bob.username
    session.save()
    client.post("/view/")
    assert b'"user": "bob", "verified": false, "impersonator": "ada"' in answered(DispatchRecord.objects.get()).body
    before_replay(lambda: client.session.flush())  # noqa: PLW0108 - the session of that moment
    client.post("/view/")
    assert b'"user": "bob"' in answered(DispatchRecord.objects.first()).body


def test_a_user_who_is_no_longer_active_cannot_act(before_replay: Any, ada: User, around: Any) -> None:
    around("account")
    client = logged_in(Client(), ada)

    def leave() -> None:
        client.session.flush()
        User.objects.update(is_active=False)

    before_replay(leave)
    client.post("/view/")
    record = DispatchRecord.objects.get()
    assert (record.state, record.response_status) == ("failed", 403)


@pytest.mark.parametrize("session", ["goes on", "ended"])
@pytest.mark.parametrize("fate", ["deactivated", "deleted"])
def test_a_user_who_is_no_longer_active_cannot_act_for_another(
    before_replay: Any,
    ada: User,
    around: Any,
    session: str,
    fate: str,
) -> None:
    around("Impersonation")
    User.objects.create_user("bob")
    client = logged_in(Client(), ada)
    kept = client.session
    kept["acts_for"] = "bob"
    kept.save()

    def leave() -> None:
        if session == "ended":
            kept.flush()
        mine = User.objects.filter(pk=ada.pk)
        mine.delete() if fate == "deleted" else mine.update(is_active=False)

    before_replay(leave)
    client.post("/view/")
    record = DispatchRecord.objects.get()
    assert (record.state, record.response_status) == ("failed", 403)


def test_a_cached_page_of_a_dispatch_from_code_is_only_for_its_user(
    django_capture_on_commit_callbacks: Any, ada: User
) -> None:
    """The anonymous request is also made by code, because Django's test client always sends a Cookie field."""
    cache.clear()
    bodies = []
    for user in (ada, None, User.objects.create_user("bob"), ada):
        with django_capture_on_commit_callbacks(execute=True):
            record = broker_django.dispatch("/dashboard/", user=user, queue="bulk")
        bodies.append(answered(record).body)
    assert bodies == [b"ada", b"nobody", b"bob", b"ada"]
    cache.clear()
