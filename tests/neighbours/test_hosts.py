"""django-hosts: each host has URLs of its own, in a replay too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

import broker_django
from broker_core.errors import MessageError
from tests.neighbours import needs

needs("django_hosts")

from broker_django.ledger import responses  # noqa: E402
from broker_django.models import DispatchRecord  # noqa: E402
from broker_django.operations.explain import explain  # noqa: E402
from tests.neighbours.conftest import QUEUED, accepted, direct, queued  # noqa: E402
from tests.neighbours.projects.hosts_settings import SETTINGS  # noqa: E402

pytestmark = [pytest.mark.urls("tests.neighbours.projects.hosts"), pytest.mark.django_db]

if TYPE_CHECKING:
    from collections.abc import Callable

WWW, API = "www.example.org", "api.example.org"


@pytest.fixture(autouse=True)
def project(settings: Any) -> None:
    for name, value in SETTINGS.items():
        if name != "INSTALLED_APPS":
            setattr(settings, name, value)
    settings.SESSION_COOKIE_DOMAIN = ".example.org"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="secret")


@pytest.mark.parametrize(("host", "path"), [(WWW, "/shown/"), (API, "/v1/shown/"), (API, "/shown/")])
def test_a_host_has_its_own_urls(ada: User, host: str, path: str) -> None:
    client = Client(headers={"host": host})
    client.force_login(ada)
    there = direct(client, path).json()
    assert there["here"] == ("/shown/" if host == WWW else "/v1/shown/")
    assert queued(client, path).json() == there


def test_a_dispatch_is_of_its_host(ada: User) -> None:
    client = Client(headers={"host": API})
    client.force_login(ada)
    links = accepted(client, "/v1/shown/")
    for link in ("self", "response", "events"):
        assert client.get(links[link], headers={"host": WWW}).status_code == 404
        assert client.get(links[link]).status_code == 200
    for host in (API, WWW, API):
        client.post("/shown/", headers={"host": host, **QUEUED, "Idempotency-Key": "k"})
    assert DispatchRecord.objects.filter(idempotency_key__isnull=False).count() == 2


def test_code_dispatches_to_a_host(ada: User, django_capture_on_commit_callbacks: Callable[..., Any]) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        shown = broker_django.dispatch("/v1/shown/", host=API, user=ada, queue="bulk")
        mine = broker_django.dispatch("/v1/mine/", method="POST", host=API, user=ada, queue="bulk")
        usual = broker_django.dispatch("/shown/", host=WWW, user=ada, queue="bulk")
    for dispatch, said in ((shown, b'"api"'), (mine, b'"user":"ada"'), (usual, b'"www"')):
        record = DispatchRecord.objects.get(pk=dispatch.id)
        assert record.state == "succeeded", record.error
        assert said in responses.fetch(record).body
    assert shown.route == "/v1/shown/"
    assert shown.host == API, "the users of another host have no part in it"
    with pytest.raises(MessageError, match="no view"):
        broker_django.dispatch("/v1/shown/", host=WWW, user=ada, queue="bulk")


def test_a_request_is_explained_by_the_urls_of_its_host() -> None:
    assert explain("GET", "/v1/shown/", {"Host": API}).view
    assert not explain("GET", "/v1/shown/", {"Host": WWW}).view
    shown = explain("GET", "/v1/shown/", {"Host": API, **QUEUED})
    assert shown.outcome.startswith("Queued on")
