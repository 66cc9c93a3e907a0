"""Cookies that a view set for an anonymous client, and who receives them."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.browsers import with_a_session

pytestmark = pytest.mark.usefixtures("everything_accepted")


@pytest.fixture(autouse=True)
def ann() -> User:
    return User.objects.create_user("ann", password="secret")


def log_in(client: Client, **headers: str) -> str:
    """Returns the URL of the response of a queued login."""
    accepted = client.post("/log-in/", {"username": "ann", "password": "secret"}, headers=headers)
    assert accepted.status_code == 202
    return str(accepted.json()["links"]["response"])


def cookies(client: Client, url: str, **headers: str) -> set[str]:
    response: Any = client.get(url, headers=headers)
    assert (response.status_code, response.content) == (200, b"in")
    return set(response.cookies)


def test_only_the_client_with_the_session_gets_its_login() -> None:
    client = with_a_session()
    url = log_in(client)
    for stranger in (Client(), with_a_session()):
        assert stranger.get(url).status_code == 404
    assert Client().get(url, headers={"Authorization": "Bearer 1"}).status_code == 404
    assert "sessionid" in cookies(client, url)


def test_a_client_that_lost_the_response_gets_it_again() -> None:
    client = with_a_session()
    before, url = client.cookies["sessionid"].value, log_in(client)
    assert "sessionid" in cookies(client, url)
    client.cookies["sessionid"] = before
    assert "sessionid" in cookies(client, url)


def test_a_client_with_a_credential_has_to_show_it_and_gets_the_cookies_by_its_claim() -> None:
    client = Client()
    url = log_in(client, Authorization="Key 1")
    assert Client().get(url).status_code == Client().get(url, headers={"Authorization": "Key 2"}).status_code == 404
    assert client.get(url).status_code == 404, "the claim alone is not enough"
    assert cookies(Client(), url, Authorization="Key 1") == set(), "others may share it"
    assert "sessionid" in cookies(client, url, Authorization="Key 1")


def test_a_client_without_anything_is_known_by_its_claim_and_others_by_its_url() -> None:
    client = Client()
    url = log_in(client)
    assert cookies(Client(), url) == set()
    assert "sessionid" in cookies(client, url)


def test_the_owner_gets_the_cookies_in_the_session_that_sent_the_request(client: Client, ann: User) -> None:
    client.force_login(ann)
    url, elsewhere = log_in(client), Client()
    elsewhere.force_login(ann)
    assert cookies(elsewhere, url) == set()
    assert "sessionid" in cookies(client, url)


@pytest.mark.parametrize("path", ["/set-cookie-field/"])
def test_a_cookie_that_was_set_as_a_field_is_one(path: str) -> None:
    client = Client()
    url = str(client.post(path).json()["links"]["response"])
    assert not {"Set-Cookie", "Clear-Site-Data"} & Client().get(url).headers.keys()
    assert client.get(url).headers["Set-Cookie"] == "sessionid=planted; Path=/"
