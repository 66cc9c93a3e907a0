"""django-ninja, and REST framework with JSON Web Tokens, Knox, OAuth and API keys."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from tests.neighbours import needs

needs("ninja", "rest_framework_simplejwt", "knox", "oauth2_provider", "rest_framework_api_key")

from knox.models import AuthToken  # noqa: E402
from oauth2_provider.models import AccessToken, Application  # noqa: E402
from rest_framework_api_key.models import APIKey  # noqa: E402
from rest_framework_simplejwt.tokens import AccessToken as JSONWebToken  # noqa: E402

from tests.neighbours.conftest import QUEUED, accepted, direct  # noqa: E402
from tests.neighbours.projects.apis import TOKENS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.urls("tests.neighbours.projects.apis"), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def fresh() -> None:
    cache.clear()


def ann() -> User:
    return User.objects.get_or_create(username="ann")[0]


def status(headers: dict[str, str], links: dict[str, str]) -> int:
    return Client().get(links["response"], headers=headers).status_code


# django-ninja


@pytest.mark.parametrize(
    ("path", "mine", "others"),
    [
        ("/ninja/bearer", {"Authorization": "Bearer ann-1"}, {"Authorization": "Bearer bob-1"}),
        ("/ninja/key", {"X-API-Key": "ann-1"}, {"X-API-Key": "bob-1"}),
        ("/ninja/either", {"Authorization": "Bearer ann-1"}, {"Authorization": "Bearer bob-1"}),
    ],
)
def test_ninja_authenticates(path: str, mine: dict[str, str], others: dict[str, str]) -> None:
    there = direct(Client(), path, **mine)
    assert there.json() == {"auth": "ann", "user": ""}
    links = accepted(Client(), path, **mine)
    got = Client().get(links["response"], headers=mine)
    assert (got.status_code, got.json()) == (200, there.json())
    assert {status(others, links), status({}, links)} == {404}


@pytest.mark.parametrize("path", ["/ninja/session", "/ninja/either"])
def test_ninja_knows_the_session(path: str, before_replay: Any) -> None:
    client, other = Client(), Client()
    client.force_login(ann())
    other.force_login(User.objects.create_user("bob"))
    there = direct(client, path)
    assert there.json() == {"auth": "ann", "user": "ann"}
    before_replay(lambda: client.session.flush())  # noqa: PLW0108 - the session of that moment
    links = accepted(client, path)
    assert client.get(links["response"]).json() == there.json()
    assert other.get(links["response"]).status_code == 404


def test_ninja_refuses_as_it_does_directly() -> None:
    there = direct(Client(), "/ninja/bearer", Authorization="Bearer wrong")
    queued = Client().post("/ninja/bearer", headers={**QUEUED, "Authorization": "Bearer wrong"})
    if queued.status_code == 202:
        queued = Client().get(queued.json()["links"]["response"], headers={"Authorization": "Bearer wrong"})
    assert (queued.status_code, queued.json()) == (there.status_code, there.json()) == (401, {"detail": "Unauthorized"})


def test_ninja_throttles_each_request_once() -> None:
    mine, answers = {"Authorization": "Bearer ann-1"}, []
    for _ in range(3):
        response = Client().post("/ninja/throttled", headers={**QUEUED, **mine})
        if response.status_code == 202:
            response = Client().get(response.json()["links"]["response"], headers=mine)
        answers.append(response.status_code)
    assert answers == [200, 200, 429]


def test_ninja_with_a_token_that_was_revoked_meanwhile(before_replay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """django-ninja authenticates when the view runs: it refuses, as SECURITY.md says."""
    mine = {"Authorization": "Bearer ann-1"}
    before_replay(lambda: monkeypatch.delitem(TOKENS, "ann-1"))
    links = accepted(Client(), "/ninja/bearer", **mine)
    assert status(mine, links) == 401


# REST framework


def bearer(token: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def web_token(pk: int | str, **claims: Any) -> JSONWebToken:
    token = JSONWebToken()
    token["user_id"] = str(pk)
    for name, value in claims.items():
        token[name] = value
    return token


def expire(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make all tokens expire for simplejwt, which uses PyJWT's clock."""
    from rest_framework_simplejwt.backends import TokenBackend
    from rest_framework_simplejwt.exceptions import TokenBackendExpiredToken

    def decode(*_: Any, **__: Any) -> Any:
        raise TokenBackendExpiredToken("Token is expired")

    return lambda: monkeypatch.setattr(TokenBackend, "decode", decode)


@pytest.mark.parametrize("path", ["/stateless/", "/rows/"])
@pytest.mark.parametrize("expires", [False, True])
def test_json_web_tokens(path: str, before_replay: Any, *, expires: bool) -> None:
    mine = web_token(ann().pk if path == "/rows/" else 4711, scope=["a"])
    there = direct(Client(), path, **bearer(mine))
    assert there.status_code == 200, there.content
    with pytest.MonkeyPatch.context() as patched:
        if expires:
            before_replay(expire(patched))
        links = accepted(Client(), path, **bearer(mine))
    got = Client().get(links["response"], headers=bearer(mine))
    assert (got.status_code, got.json()) == (200, there.json())


@pytest.mark.parametrize("path", ["/stateless/", "/rows/"])
def test_a_refreshed_token_gets_the_answer(path: str) -> None:
    pk = ann().pk if path == "/rows/" else 4711
    links = accepted(Client(), path, **bearer(web_token(pk)))
    assert status(bearer(web_token(pk, refreshed=True)), links) == 200
    other = User.objects.create_user("bob").pk
    assert status(bearer(web_token(other)), links) == 404
    assert status({}, links) == 404


def test_a_stateless_user_is_not_a_row() -> None:
    """In the table, the same number belongs to another user."""
    user = ann()
    links = accepted(Client(), "/stateless/", **bearer(web_token(user.pk)))
    client = Client()
    client.force_login(user)
    assert client.get(links["response"]).status_code == 404


@pytest.mark.parametrize("ends", [False, True])
def test_knox(before_replay: Any, *, ends: bool) -> None:
    mine = {"Authorization": f"Token {AuthToken.objects.create(ann())[1]}"}
    again = {"Authorization": f"Token {AuthToken.objects.create(ann())[1]}"}
    there = direct(Client(), "/knox/", **mine).json()
    if ends:
        before_replay(lambda: AuthToken.objects.filter(token_key=there["auth"][1][:15]).update(expiry=timezone.now()))
    links = accepted(Client(), "/knox/", **mine)
    assert Client().get(links["response"], headers=again).json() == there
    bob = {"Authorization": f"Token {AuthToken.objects.create(User.objects.create_user('bob'))[1]}"}
    assert status(bob, links) == 404


@pytest.mark.parametrize("ends", [False, True])
def test_oauth(before_replay: Any, *, ends: bool) -> None:
    application = Application.objects.create(
        name="app", user=ann(), client_type="public", authorization_grant_type="password"
    )
    later = timezone.now() + timedelta(hours=1)
    for text in ("first", "second"):
        AccessToken.objects.create(user=ann(), token=text, application=application, expires=later, scope="read")
    there = direct(Client(), "/oauth/", **bearer("first"))
    assert there.status_code == 200, there.content
    if ends:
        before_replay(lambda: AccessToken.objects.filter(token="first").update(expires=timezone.now()))
    links = accepted(Client(), "/oauth/", **bearer("first"))
    got = Client().get(links["response"], headers=bearer("second"))
    if ends:  # its permission asks the token itself, when the view runs
        assert got.status_code == 403
    else:
        assert got.json() == there.json()
    assert status({}, links) == 404


def test_api_keys() -> None:
    mine = {"Authorization": f"Api-Key {APIKey.objects.create_key(name='a')[1]}"}
    others = {"Authorization": f"Api-Key {APIKey.objects.create_key(name='b')[1]}"}
    there = direct(Client(), "/keyed/", **mine)
    assert there.status_code == 200, there.content
    links = accepted(Client(), "/keyed/", **mine)
    assert Client().get(links["response"], headers=mine).json() == there.json()
    assert {status(others, links), status({}, links)} == {404}
    assert Client().post("/keyed/", headers=QUEUED).status_code == 403
