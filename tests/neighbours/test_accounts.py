"""Second factors and impersonation: a replay has the same state as the request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client

from tests.neighbours import needs

needs("django_otp", "two_factor", "hijack", "impersonate")

from django_otp import DEVICE_ID_SESSION_KEY  # noqa: E402
from django_otp.plugins.otp_static.models import StaticDevice  # noqa: E402

from tests.neighbours.conftest import accepted, direct, queued  # noqa: E402
from tests.neighbours.settings import OURS  # noqa: E402
from tests.settings import MIDDLEWARE  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = "tests.neighbours.projects.accounts"

pytestmark = [pytest.mark.urls(PROJECT), pytest.mark.django_db]


@pytest.fixture
def ada() -> User:
    return User.objects.create_superuser("ada", password="secret")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


@pytest.fixture
def client(ada: User) -> Client:
    client = Client()
    client.force_login(ada)
    return client


def nothing(_client: Client) -> None:
    pass


def logged_out(client: Client) -> None:
    client.session.flush()


def password_changed(client: Client) -> None:
    user = User.objects.get(pk=client.session["_auth_user_id"])
    user.set_password("other")
    user.save()


def expired(_client: Client) -> None:
    Session.objects.all().delete()


FATES = [nothing, logged_out, password_changed, expired]


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("verified", [True, False])
def test_a_replay_keeps_the_second_factor(
    client: Client,
    ada: User,
    settings: Any,
    before_replay: Any,
    fate: Callable[[Client], None],
    *,
    verified: bool,
) -> None:
    settings.MIDDLEWARE = [*MIDDLEWARE[:-1], "django_otp.middleware.OTPMiddleware", f"{PROJECT}.outer", OURS]
    if verified:
        device = StaticDevice.objects.create(user=ada, name="key")
        session = client.session
        session[DEVICE_ID_SESSION_KEY] = device.persistent_id
        session.save()
    there = direct(client, "/shown/").json()
    assert there["view"]["verified"] is verified
    before_replay(lambda: fate(client))
    links = accepted(client, "/shown/")
    if fate is not password_changed:
        assert client.get(links["response"]).json() == there
    client.force_login(User.objects.get(pk=ada.pk))
    assert client.get(links["response"]).json() == there


def hijack(client: Client, bob: User) -> None:
    assert client.post("/hijack/acquire/", {"user_pk": bob.pk}).status_code == 302


def impersonate(client: Client, bob: User) -> None:
    assert client.get(f"/impersonate/{bob.pk}/").status_code == 302


def released(client: Client) -> None:
    assert client.post("/hijack/release/").status_code == 302


def stopped(client: Client) -> None:
    assert client.get("/impersonate/stop/").status_code == 302


HIJACK = (hijack, "hijack.middleware.HijackUserMiddleware")
IMPERSONATE = (impersonate, "impersonate.middleware.ImpersonateMiddleware")


@pytest.mark.parametrize(
    ("begin", "middleware", "fate"),
    [
        *((*package, fate) for package in (HIJACK, IMPERSONATE) for fate in FATES),
        (*HIJACK, released),
        (*IMPERSONATE, stopped),
    ],
)
def test_a_replay_keeps_who_acts_for_whom(
    client: Client,
    ada: User,
    bob: User,
    settings: Any,
    before_replay: Any,
    begin: Callable[[Client, User], None],
    middleware: str,
    fate: Callable[[Client], None],
) -> None:
    settings.MIDDLEWARE = [*MIDDLEWARE[:-1], middleware, f"{PROJECT}.outer", OURS]
    begin(client, bob)
    there = direct(client, "/shown/").json()
    assert there["view"]["user"] == "bob"
    other = Client()
    other.cookies = client.cookies.copy()
    before_replay(lambda: fate(other))
    links = accepted(client, "/shown/")
    as_bob = Client()
    as_bob.force_login(User.objects.get(pk=bob.pk))
    assert as_bob.get(links["response"]).json() == there
    stranger = Client()
    stranger.force_login(User.objects.create_user("eve"))
    assert stranger.get(links["response"]).status_code == 404
    if fate is nothing:
        assert client.get(links["response"]).json() == there


def test_an_ended_session_stays_ended(client: Client, settings: Any, before_replay: Any) -> None:
    assert HASH_SESSION_KEY in client.session
    settings.MIDDLEWARE = [*MIDDLEWARE[:-1], f"{PROJECT}.outer", OURS]
    settings.SESSION_SAVE_EVERY_REQUEST = True
    before_replay(lambda: logged_out(client))
    links = accepted(client, "/shown/")
    assert not Session.objects.exists()
    assert client.get(links["response"]).json()["view"]["user"] == "ada"


def test_a_queued_response_is_the_same_as_a_direct_one(client: Client, settings: Any) -> None:
    settings.MIDDLEWARE = [*MIDDLEWARE[:-1], "django_otp.middleware.OTPMiddleware", f"{PROJECT}.outer", OURS]
    assert queued(client, "/shown/").json() == direct(client, "/shown/").json()
