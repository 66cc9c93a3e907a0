"""Common packages: a queued request gets the same response as a direct one."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.test import AsyncClient, Client

from tests.neighbours import needs

needs(
    "allauth",
    "axes",
    "corsheaders",
    "csp",
    "debug_toolbar",
    "django_prometheus",
    "django_structlog",
    "django_user_agents",
    "guardian",
    "maintenance_mode",
    "silk",
    "waffle",
    "whitenoise",
)

import structlog  # noqa: E402
from guardian.shortcuts import assign_perm  # noqa: E402
from waffle.models import Flag  # noqa: E402

from broker_django.log_redaction import without_tokens  # noqa: E402
from tests.neighbours.conftest import QUEUED, accepted, direct  # noqa: E402
from tests.neighbours.settings import OURS  # noqa: E402
from tests.settings import MIDDLEWARE  # noqa: E402

pytestmark = [pytest.mark.urls("tests.neighbours.projects.common"), pytest.mark.django_db]

FIRST = {
    "whitenoise": ["whitenoise.middleware.WhiteNoiseMiddleware"],
    "cors": ["corsheaders.middleware.CorsMiddleware"],
    "prometheus": ["django_prometheus.middleware.PrometheusBeforeMiddleware"],
    "silk": ["silk.middleware.SilkyMiddleware"],
    "toolbar": ["debug_toolbar.middleware.DebugToolbarMiddleware"],
}
LAST = {
    "csp": ["csp.middleware.CSPMiddleware"],
    "axes": ["axes.middleware.AxesMiddleware"],
    "waffle": ["waffle.middleware.WaffleMiddleware"],
    "maintenance": ["maintenance_mode.middleware.MaintenanceModeMiddleware"],
    "agents": ["django_user_agents.middleware.UserAgentMiddleware"],
    "structlog": ["django_structlog.middlewares.RequestMiddleware"],
    "allauth": ["allauth.account.middleware.AccountMiddleware"],
    "prometheus": ["django_prometheus.middleware.PrometheusAfterMiddleware"],
}
NAMES = sorted({*FIRST, *LAST})
OF_EACH = {"cache-control", "content-length", "content-security-policy", "djdt-request-id", "server-timing"}
"""The fields that differ with each response."""

HEADERS = {
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "origin": "https://other.example",
    "x-correlation-id": "c-1",
}


@pytest.fixture
def ada() -> User:
    user = User.objects.create_user("ada", password="secret")
    assign_perm("auth.view_user", user, user)
    Flag.objects.create(name="half", percent=50)
    return user


@pytest.fixture(params=[*NAMES, "all"])
def package(request: pytest.FixtureRequest, settings: Any) -> str:
    names = NAMES if request.param == "all" else [request.param]
    first = [path for name in names for path in FIRST.get(name, ())]
    last = [path for name in names for path in LAST.get(name, ())]
    settings.MIDDLEWARE = [*first, *MIDDLEWARE[:-1], *last, OURS]
    settings.AUTHENTICATION_BACKENDS = [
        *(["axes.backends.AxesStandaloneBackend"] if "axes" in names else []),
        "django.contrib.auth.backends.ModelBackend",
        "guardian.backends.ObjectPermissionBackend",
    ]
    settings.CORS_ALLOW_ALL_ORIGINS = True
    settings.STATIC_ROOT = None
    settings.DEBUG_TOOLBAR_CONFIG = {"SHOW_TOOLBAR_CALLBACK": lambda _request: True}
    return str(request.param)


def log_in(client: Any, user: User) -> Any:
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def fields(response: Any) -> dict[str, str]:
    return {name: value for name, value in response.items() if name.lower() not in OF_EACH}


@pytest.mark.parametrize("path", ["/shown/", "/page/"])
def test_the_answer_is_the_same(package: str, ada: User, path: str) -> None:
    client = log_in(Client(headers=HEADERS), ada)
    there = direct(client, path)
    assert there.status_code == 200
    client.cookies.update(there.cookies)
    there = direct(client, path)
    links = accepted(client, path)
    later = client.get(links["response"])
    assert later.status_code == 200
    if path == "/shown/":
        assert said(later, package) == said(there, package)
    else:
        assert b"Hello ada" in later.content
    now, then = fields(later), fields(there)
    assert {name: now.get(name) for name in then} == then


def said(response: Any, package: str) -> dict[str, Any]:
    """Only its middleware keeps a visitor's variant of a flag."""
    return {name: value for name, value in response.json().items() if name != "flag" or package in {"waffle", "all"}}


def test_coroutines_are_answered_too(package: str, ada: User) -> None:
    client = log_in(AsyncClient(headers=HEADERS), ada)
    there = async_to_sync(client.post)("/shown/")
    queued = async_to_sync(client.post)("/shown/", headers=QUEUED)
    assert queued.status_code == 202
    later = async_to_sync(client.get)(queued.json()["links"]["response"])
    assert said(later, "none") == said(there, "none")


def test_a_failure_is_the_same(package: str, ada: User) -> None:
    client = log_in(Client(headers=HEADERS, raise_request_exception=False), ada)
    there = direct(client, "/failing/")
    links = accepted(client, "/failing/")
    later = client.get(links["response"])
    assert (later.status_code, later["Content-Type"]) == (there.status_code, there["Content-Type"])
    assert later.status_code == 500


def test_maintenance_begins_while_a_request_waits(ada: User, settings: Any, before_replay: Any) -> None:
    settings.MIDDLEWARE = [*MIDDLEWARE[:-1], *LAST["maintenance"], OURS]
    settings.REQUEST_BROKER = {**settings.REQUEST_BROKER, "QUEUES": {"bulk": {"max_attempts": 1}}}
    client = log_in(Client(), ada)

    def close() -> None:
        settings.MAINTENANCE_MODE = True

    before_replay(close)
    links = accepted(client, "/page/")
    assert client.get(links["self"]).status_code == 503
    settings.MAINTENANCE_MODE = False
    document = client.get(links["self"]).json()
    assert document["state"] == "failed"
    assert "503" in document["error"]


def test_a_login_of_allauth(ada: User, settings: Any) -> None:
    settings.MIDDLEWARE = [*MIDDLEWARE[:-1], *LAST["allauth"], OURS]
    settings.ACCOUNT_EMAIL_VERIFICATION = "none"
    settings.ACCOUNT_RATE_LIMITS = False
    settings.AUTHENTICATION_BACKENDS = [
        "django.contrib.auth.backends.ModelBackend",
        "allauth.account.auth_backends.AuthenticationBackend",
    ]
    assert Permission.objects.exists()
    client = Client()
    queued = client.post("/accounts/login/", {"login": "ada", "password": "secret"}, headers=QUEUED)
    assert queued.status_code == 202
    later = client.get(queued.json()["links"]["response"])
    assert (later.status_code, "sessionid" in later.cookies) == (302, True)
    assert direct(client, "/shown/").json()["user"] == "ada"


def test_tokens_stay_out_of_structlog(ada: User, settings: Any) -> None:
    settings.MIDDLEWARE = [*MIDDLEWARE[:-1], *LAST["structlog"], OURS]
    client = log_in(Client(), ada)
    links = accepted(client, "/shown/")
    token = links["self"].split("/")[-2]

    def keep_tokens_out(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
        return {name: without_tokens(value) if isinstance(value, str) else value for name, value in event.items()}

    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars, keep_tokens_out]
    ) as logged:
        client.get(links["self"])
    assert "/broker/tasks/" in str(logged)
    assert token not in str(logged)
