"""Users, sessions and cookies: the replay runs as the accepted user."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import AsyncClient, Client, override_settings
from django.utils import timezone
from rest_framework.authtoken.models import Token

import broker_django
from broker_core.errors import MessageError
from broker_django.identity import users
from broker_django.models import DispatchRecord

ACCEPT_ALL = {"RULES": [{"when": "true", "queue": "bulk"}]}
PROPER = {"username": "ann", "password": "secret"}


@pytest.fixture
def ann() -> User:
    return User.objects.create_user(**PROPER)


def follow(client: Client, response: Any) -> Any:
    assert response.status_code == 202, response.content
    return client.get(response.json()["links"]["response"])


def test_the_replay_runs_as_the_same_user(client: Client, ann: User, everything_queued: None) -> None:
    client.force_login(ann)
    assert client.get("/echo/").json()["user"] == "ann"


def test_an_async_view_runs_as_the_same_user(async_client: AsyncClient, ann: User) -> None:
    async_client.force_login(ann)
    assert async_to_sync(async_client.get)("/slow/").json()["user"] == "ann"


def test_a_user_who_logged_out_meanwhile_is_still_the_user(client: Client, ann: User, before_replay: Any) -> None:
    client.force_login(ann)
    before_replay(client.session.flush)
    with override_settings(REQUEST_BROKER=ACCEPT_ALL):
        response = client.get("/echo/")
    assert follow(client, response).json()["user"] == "ann"


@pytest.mark.parametrize("fate", ["deactivated", "deleted"])
def test_a_deleted_user_fails_the_dispatch_and_gets_no_answer(
    client: Client, ann: User, before_replay: Any, fate: str
) -> None:
    client.force_login(ann)
    mine = User.objects.filter(pk=ann.pk)
    before_replay(mine.delete if fate == "deleted" else lambda: mine.update(is_active=False))
    with override_settings(REQUEST_BROKER=ACCEPT_ALL):
        response = client.get("/echo/")
    assert follow(client, response).status_code == 404
    record = DispatchRecord.objects.get()
    assert (record.state, record.response_status) == ("failed", 403)


def test_an_anonymous_request_stays_anonymous(client: Client, ann: User, before_replay: Any) -> None:
    session = client.session
    session["cart"] = 1
    session.save()
    client.cookies["sessionid"] = session.session_key

    def someone_logs_in() -> None:
        session["_auth_user_id"] = str(ann.pk)
        session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
        session["_auth_user_hash"] = ann.get_session_auth_hash()
        session.save()

    before_replay(someone_logs_in)
    with override_settings(REQUEST_BROKER=ACCEPT_ALL):
        response = client.get("/echo/")
    assert follow(client, response).json()["user"] == ""


def test_logging_in_inside_a_queued_view_reaches_the_client(client: Client, ann: User) -> None:
    with override_settings(REQUEST_BROKER=ACCEPT_ALL):
        response = client.post("/log-in/", PROPER)
    assert "sessionid" not in client.cookies
    assert follow(client, response).content == b"in"
    assert client.get("/echo/").json()["user"] == "ann"
    assert client.get("/flashes/").json() == {"messages": ["Welcome back."]}


def test_logging_out_inside_a_queued_view_reaches_the_client(client: Client, ann: User) -> None:
    client.force_login(ann)
    with override_settings(REQUEST_BROKER=ACCEPT_ALL):
        response = client.post("/log-out/")
    assert follow(client, response).content == b"out"
    assert client.get("/echo/").json()["user"] == ""
    assert client.cookies["sessionid"].value == ""


def test_login_and_logout_while_the_client_waits(client: Client, ann: User, everything_queued: None) -> None:
    assert client.post("/log-in/", PROPER).content == b"in"
    assert client.get("/echo/").json()["user"] == "ann"
    assert client.post("/log-out/").content == b"out"
    assert client.get("/echo/").json()["user"] == ""


@pytest.mark.parametrize("save_every_request", [False, True])
@pytest.mark.parametrize("engine", ["db", "cached_db", "signed_cookies", "cache"])
def test_the_session_is_read_and_written(
    client: Client, everything_queued: None, engine: str, save_every_request: bool
) -> None:
    with override_settings(
        SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}", SESSION_SAVE_EVERY_REQUEST=save_every_request
    ):
        assert [client.get("/count/").content for _ in range(3)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("save_every_request", [False, True])
def test_the_outer_middleware_does_not_save_over_the_replay(client: Client, save_every_request: bool) -> None:
    session = client.session
    session["count"] = 4
    session.save()
    client.cookies["sessionid"] = session.session_key
    with override_settings(REQUEST_BROKER=ACCEPT_ALL, SESSION_SAVE_EVERY_REQUEST=save_every_request):
        client.get("/count/")
        client.get("/count/")
    assert client.session["count"] == 6


def test_another_users_dispatch_is_a_404(client: Client, ann: User) -> None:
    client.force_login(ann)
    location = client.post("/pay/")["Location"]
    bob = Client()
    bob.force_login(User.objects.create_user("bob"))
    for path in (location, location + "response/", location + "events/"):
        assert client.get(path).status_code == 200 or path.endswith("response/")
        for other in (bob, Client()):
            response = other.get(path)
            assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")
    assert bob.delete(location).status_code == 404


def test_an_owner_on_another_device_may_poll(client: Client, ann: User) -> None:
    client.force_login(ann)
    location = client.post("/pay/")["Location"]
    phone = Client()
    phone.force_login(ann)
    assert phone.get(location).status_code == 200


def test_drf_authenticates_before_acceptance(client: Client, ann: User) -> None:
    cache.clear()
    assert client.post("/rest/").status_code == 401
    assert client.post("/rest/", headers={"Authorization": "Token wrong"}).status_code == 401
    assert not DispatchRecord.objects.exists()

    token = {"Authorization": f"Token {Token.objects.create(user=ann).key}"}
    response = client.post("/rest/", {"a": "1"}, headers=token)
    assert DispatchRecord.objects.get().user == str(ann.pk)
    location = response.json()["links"]["response"]
    assert client.get(location).status_code == 404
    assert client.get(location, headers=token).json()["user"] == "ann"


def test_a_token_that_was_revoked_meanwhile_does_not_undo_the_acceptance(
    client: Client, ann: User, before_replay: Any
) -> None:
    cache.clear()
    token = {"Authorization": f"Token {Token.objects.create(user=ann).key}"}
    before_replay(Token.objects.all().delete)
    response = client.post("/rest/", {"a": "1"}, headers=token)
    assert client.get(response.json()["links"]["response"], headers=token).json()["user"] == "ann"


def test_drf_throttles_count_once(client: Client, ann: User) -> None:
    cache.clear()
    client.force_login(ann)
    answers = [client.post("/rest/", {"a": "1"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert [follow(client, answer).json()["user"] for answer in answers[:2]] == ["ann", "ann"]
    assert answers[2]["Retry-After"]


@pytest.mark.parametrize(("path", "varies"), [("/teapot/", False), ("/echo/", True)])
def test_a_response_varies_on_the_cookie_only_if_the_view_read_it(
    client: Client, ann: User, everything_queued: None, path: str, varies: bool
) -> None:
    client.force_login(ann)
    assert ("Cookie" in client.get(path)["Vary"]) is varies


class Foreign:
    """A user of another service, with the key of one of this project's."""

    is_authenticated = is_active = True
    pk = 1


@pytest.mark.django_db
def test_code_cannot_name_a_user_of_another_kind() -> None:
    with pytest.raises(MessageError, match="a Foreign is not a user of this project"):
        broker_django.dispatch("/echo/", user=Foreign(), queue="bulk")


@pytest.mark.django_db
def test_a_primary_key_may_be_a_string_with_a_colon(monkeypatch: pytest.MonkeyPatch) -> None:
    Session.objects.create(session_key="urn:1", expire_date=timezone.now())
    monkeypatch.setattr(users, "user_model", lambda: Session)
    assert (users.may_act("urn:1"), users.may_act("urn:2"), users.may_act("no.such.Class:1")) == (True, False, False)


@override_settings(AUTHENTICATION_BACKENDS=[])
def test_a_project_may_have_no_authentication_backends() -> None:
    assert [users.is_active(User(is_active=active)) for active in (True, False)] == [True, False]
