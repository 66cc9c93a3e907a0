"""A cache of the whole site neither answers replays nor stores their responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path

import broker_django
from broker_django.ledger import responses
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

UPDATE, FETCH = "django.middleware.cache.UpdateCacheMiddleware", "django.middleware.cache.FetchFromCacheMiddleware"
AROUND = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
BROKER = "broker_django.middleware.RequestBrokerMiddleware"


class OwnCache:
    """A subclass of Django's."""

    from django.middleware.cache import CacheMiddleware as Base


own_cache = type("Cached", (OwnCache.Base,), {})
ran: list[str] = []


def mine(request: HttpRequest) -> HttpResponse:
    ran.append(request.user.get_username())
    return HttpResponse(request.user.get_username())


urlpatterns = [path("mine/", mine), path("broker/", include("broker_django.urls"))]


@pytest.fixture(
    autouse=True,
    params=[[UPDATE, *AROUND, FETCH, BROKER], [f"{__name__}.own_cache", *AROUND, BROKER]],
    ids=["Django's two", "one of the project's"],
)
def cached(request: pytest.FixtureRequest) -> Iterator[None]:
    ran.clear()
    cache.clear()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=request.param, CACHE_MIDDLEWARE_SECONDS=600):
        yield
    cache.clear()


def body(dispatch: Any) -> str:
    message = responses.fetch(DispatchRecord.objects.get(pk=dispatch.id))
    assert message is not None
    return message.body.decode()


@pytest.mark.django_db(transaction=True)
def test_each_user_gets_only_their_own_page(client: Client) -> None:
    users = [User.objects.create_user(name) for name in ("ada", "bob")]
    made = [broker_django.dispatch("/mine/", user=user, queue="bulk") for user in users]
    assert [body(dispatch) for dispatch in made] == ["ada", "bob"]
    assert client.get("/mine/").content == b""


@pytest.mark.django_db(transaction=True)
def test_each_dispatch_from_code_is_run(client: Client) -> None:
    client.get("/mine/")
    for _ in range(2):
        broker_django.dispatch("/mine/", queue="bulk")
    assert len(ran) == 3
