"""Every test here runs in each project, through both interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connections
from django.test import Client, override_settings
from django.utils import timezone

from broker_django.ledger import tokens
from broker_django.models import DispatchRecord
from tests.endpoints.clients import Browser
from tests.endpoints.projects import projects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OF_CONNECTIONS = ("ATOMIC_REQUESTS", "CONN_MAX_AGE")
RULES = [{"when": 'request.path.startsWith("/count/") || request.path.startsWith("/broken/")', "queue": "bulk"}]


@pytest.fixture(autouse=True)
def database(db: Any) -> None:
    """Every test here writes dispatches."""


@pytest.fixture(params=projects())
def project(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Use the settings of this project while the test runs."""
    special = dict(projects()[request.param])
    for name in OF_CONNECTIONS:
        if name in special:
            monkeypatch.setitem(connections.settings["default"], name, special.pop(name))
    with override_settings(**special):
        cache.clear()
        yield request.param


@pytest.fixture(params=["wsgi", "asgi"])
def new_browser(request: pytest.FixtureRequest, project: str) -> Callable[[], Browser]:
    mounted = projects()[project].get("FORCE_SCRIPT_NAME", "")
    return lambda: Browser(request.param, mounted)


@pytest.fixture
def browser(new_browser: Callable[[], Browser]) -> Browser:
    return new_browser()


@pytest.fixture
def visitor(new_browser: Callable[[], Browser], project: str) -> Browser:
    """Returns a browser whose requests are allowed: with a user, if the project requires one."""
    browser = new_browser()
    if project == "login required":
        client = Client()
        client.force_login(User.objects.create_user("ada"))
        browser.cookies.load(client.cookies)
    return browser


@pytest.fixture
def prefix(project: str) -> str:
    """Returns the prefix of the endpoints, as clients see it."""
    return {"below a prefix": "/app/broker", "a URLconf by host": "/elsewhere"}.get(project, "/broker")


@pytest.fixture
def waiting(prefix: str) -> str:
    """Returns the status URL of a dispatch that no worker has claimed."""
    record = DispatchRecord.objects.create(
        queue="bulk", method="GET", path="/x/", route="/x/", accepted_at=timezone.now(), sealed=b""
    )
    return f"http://testserver{prefix}/tasks/{tokens.issue(record.pk, record.accepted_at)}/"
