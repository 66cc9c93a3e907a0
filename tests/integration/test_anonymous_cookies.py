"""The cookies that a view set for an anonymous client, and who gets them."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

pytestmark = pytest.mark.usefixtures("everything_accepted")


@pytest.fixture(autouse=True)
def ann() -> User:
    return User.objects.create_user("ann", password="secret")


def log_in(client: Client, **headers: str) -> str:
    """Where the response of a queued login is."""
    accepted = client.post("/log-in/", {"username": "ann", "password": "secret"}, headers=headers)
    assert accepted.status_code == 202
    return str(accepted.json()["links"]["response"])


def cookies(client: Client, url: str, **headers: str) -> set[str]:
    response: Any = client.get(url, headers=headers)
    assert (response.status_code, response.content) == (200, b"in")
    return set(response.cookies)


def with_a_session() -> Client:
    client = Client()
    session = client.session
    session["cart"] = [1]
    session.save()
    client.cookies["sessionid"] = session.session_key
    return client


def test_a_client_with_a_session_gets_its_login_and_nobody_else_does() -> None:
    client = with_a_session()
    url = log_in(client)
    assert cookies(Client(), url) == set()
    assert cookies(with_a_session(), url) == set()
    assert cookies(Client(), url, Authorization="Bearer 1") == set()
    assert "sessionid" in cookies(client, url)


def test_a_client_that_lost_the_response_gets_it_again() -> None:
    client = with_a_session()
    before, url = client.cookies["sessionid"].value, log_in(client)
    assert "sessionid" in cookies(client, url)
    client.cookies["sessionid"] = before
    assert "sessionid" in cookies(client, url)


def test_a_client_with_a_credential_is_known_by_it() -> None:
    url = log_in(Client(), Authorization="Key 1")
    assert cookies(Client(), url) == cookies(Client(), url, Authorization="Key 2") == set()
    assert "sessionid" in cookies(Client(), url, Authorization="Key 1")


def test_a_client_without_anything_is_known_by_its_url() -> None:
    assert "sessionid" in cookies(Client(), log_in(Client()))


def test_the_owner_gets_the_cookies_in_any_session(client: Client, ann: User) -> None:
    client.force_login(ann)
    url, elsewhere = log_in(client), Client()
    elsewhere.force_login(ann)
    assert "sessionid" in cookies(elsewhere, url)
