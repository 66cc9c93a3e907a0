"""Middleware writes into the session of every request, while a replay renews or ends the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.contrib.auth.models import User
from django.test import AsyncClient, Client
from django.utils.decorators import sync_and_async_middleware

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from django.http import HttpRequest
    from pytest_django.fixtures import SettingsWrapper

STORES = ["db", "cache", "cached_db", "file"]
QUEUED = [{"when": 'request.method == "POST"', "queue": "bulk"}]


@sync_and_async_middleware
def last_seen(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Writes after the view."""

    def note(request: HttpRequest) -> None:
        request.session["seen"] = request.session.get("seen", 0) + 1

    async def coroutine(request: HttpRequest) -> Any:
        response = await get_response(request)
        await sync_to_async(note)(request)
        return response

    def middleware(request: HttpRequest) -> Any:
        response = get_response(request)
        note(request)
        return response

    return coroutine if iscoroutinefunction(get_response) else middleware


@pytest.fixture(params=STORES)
def project(request: pytest.FixtureRequest, settings: SettingsWrapper, tmp_path: Path) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.REQUEST_BROKER = {"RULES": QUEUED}
    before = settings.MIDDLEWARE.index("django.contrib.sessions.middleware.SessionMiddleware") + 1
    settings.MIDDLEWARE = [*settings.MIDDLEWARE[:before], f"{__name__}.last_seen", *settings.MIDDLEWARE[before:]]


@pytest.fixture(params=[Client, AsyncClient])
def visitor(request: pytest.FixtureRequest) -> Any:
    return request.param()


def send(visitor: Any, method: str, path: str, *arguments: Any) -> Any:
    function = getattr(visitor, method)
    return (async_to_sync(function) if isinstance(visitor, AsyncClient) else function)(path, *arguments)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("path", ["/log-in/", "/log-out/"])
def test_the_client_keeps_its_cookie_until_it_has_the_response(
    visitor: Any, settings: SettingsWrapper, path: str, *, always: bool
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = always
    User.objects.create_user("ada", password="lovelace")
    visitor.force_login(User.objects.create_user("grace"))
    before = visitor.cookies["sessionid"].value
    accepted = send(visitor, "post", path, {"username": "ada", "password": "lovelace"})
    assert accepted.status_code == 202
    assert "sessionid" not in accepted.cookies
    assert visitor.cookies["sessionid"].value == before
    answer = send(visitor, "get", f"{accepted['Location']}response/")
    assert answer.status_code == 200
    assert answer.cookies["sessionid"].value != before


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("always", [False, True])
def test_writes_of_the_middleware_and_the_view_are_both_kept(
    visitor: Any, settings: SettingsWrapper, *, always: bool
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = always
    visitor.force_login(User.objects.create_user("grace"))
    for _ in range(2):
        assert send(visitor, "post", "/count/").status_code == 202
    assert visitor.session["count"] == 2
    assert visitor.session["seen"] >= 2
