"""An attacker who knows the URL of somebody else's dispatch: `python -m tests.attacks`.

Each line is an attack, and says whether it was refused. The exit status is 1 if one was not.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.test import Client, override_settings  # noqa: E402
from django.test.utils import get_runner  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERYTHING: dict[str, Any] = {"RULES": [{"when": "true", "queue": "bulk"}]}
EDGE = {"Authorization": "Basic ZWRnZTplZGdl"}
KEY = {"Idempotency-Key": "a-key-that-leaked"}
LOGIN = {"username": "mallory", "password": "secret"}

attacks: list[tuple[str, Callable[[], bool]]] = []


def attack(name: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Register a function that says whether the attack succeeded."""

    def register(function: Callable[[], bool]) -> Callable[[], bool]:
        attacks.append((name, function))
        return function

    return register


@dataclass(frozen=True, slots=True)
class Dispatch:
    """URLs that an attacker has got hold of."""

    links: dict[str, str]

    def read(self, client: Client, **headers: str) -> bool:
        """Whether any exit opens."""
        asked = (client.get(self.links[name], headers=headers) for name in ("self", "response", "events"))
        return any(response.status_code != 404 for response in asked)

    def cancel(self, client: Client, **headers: str) -> bool:
        return client.delete(self.links["cancel"], headers=headers).status_code != 404

    def cookies(self, client: Client, **headers: str) -> bool:
        """Whether the response hands out any."""
        response = client.get(self.links["response"], headers=headers)
        return bool(response.cookies) or "Set-Cookie" in response.headers


def sent(client: Client, path: str = "/pay/", data: Any = None, **headers: str) -> Dispatch:
    with override_settings(REQUEST_BROKER=EVERYTHING):
        accepted = client.post(path, data or {}, headers=headers)
    return Dispatch(accepted.json()["links"])


def user(name: str) -> User:
    found, _created = User.objects.get_or_create(username=name, defaults={"is_active": True})
    found.is_active = True
    found.set_password("secret")
    found.save()
    return found


def logged_in(name: str) -> Client:
    client = Client()
    client.force_login(user(name))
    return client


def with_a_session() -> Client:
    client = Client()
    session = client.session
    session["cart"] = [1]
    session.save()
    client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
    return client


@attack("read a user's dispatch by its URL")
def _() -> bool:
    return sent(logged_in("ann")).read(Client())


@attack("cancel a user's dispatch by its URL")
def _() -> bool:
    return sent(logged_in("ann")).cancel(Client())


@attack("read a user's dispatch as another user")
def _() -> bool:
    return sent(logged_in("ann")).read(logged_in("mallory"))


@attack("read a user's dispatch with the Authorization that a proxy asks of everybody")
def _() -> bool:
    dispatch = sent(logged_in("ann"), **EDGE)
    return dispatch.read(Client(), **EDGE) or dispatch.read(logged_in("mallory"), **EDGE)


@attack("read the dispatch of a bearer token by its URL")
def _() -> bool:
    dispatch = sent(Client(), Authorization="Bearer 1")
    return dispatch.read(Client()) or dispatch.read(Client(), Authorization="Bearer 2")


@attack("read the dispatch of an API key behind a proxy with another key")
def _() -> bool:
    return sent(Client(), **EDGE, **{"X-Api-Key": "1"}).read(Client(), **EDGE, **{"X-Api-Key": "2"})


@attack("read what an anonymous session sent by its URL")
def _() -> bool:
    return sent(with_a_session()).read(with_a_session())


@attack("log a colleague in by the link to a queued login")
def _() -> bool:
    user("mallory")
    return sent(Client(), "/log-in/", LOGIN).cookies(Client())


@attack("log a colleague in by that link, through the same proxy")
def _() -> bool:
    user("mallory")
    return sent(Client(), "/log-in/", LOGIN, **EDGE).cookies(Client(), **EDGE)


@attack("plant a cookie that a view has set as a header field")
def _() -> bool:
    return sent(Client(), "/set-cookie-field/").cookies(Client())


@attack("plant a session by a repeated Idempotency-Key")
def _() -> bool:
    user("mallory")
    with override_settings(REQUEST_BROKER=EVERYTHING):
        Client().post("/log-in/", LOGIN, headers=KEY)
        again = Client().post("/log-in/", LOGIN, headers=KEY)
    return settings.SESSION_COOKIE_NAME in again.cookies


@attack("get a claim by a repeated Idempotency-Key")
def _() -> bool:
    with override_settings(REQUEST_BROKER=EVERYTHING):
        first, again = (Client().post("/pay/", headers={"Idempotency-Key": "claimed"}) for _ in range(2))
    return not first.cookies or bool(again.cookies)


@attack("use the claim of one dispatch for another")
def _() -> bool:
    mallory, victim = Client(), with_a_session()
    with override_settings(REQUEST_BROKER=EVERYTHING):
        claim = mallory.post("/pay/").cookies["request_broker_claim"].value
    dispatch, thief = sent(victim), Client()
    thief.cookies["request_broker_claim"] = claim
    return dispatch.read(thief)


@attack("get the cookies of a browser with another session of the same user")
def _() -> bool:
    return sent(logged_in("ann"), "/count/").cookies(logged_in("ann"))


@attack("use the old cookie of an account that was deactivated")
def _() -> bool:
    client = logged_in("carol")
    dispatch = sent(client)
    User.objects.filter(username="carol").update(is_active=False)
    return dispatch.read(client)


@attack("use the old cookie of an account that was deleted")
def _() -> bool:
    client = logged_in("dave")
    dispatch = sent(client)
    User.objects.filter(username="dave").delete()
    return dispatch.read(client)


@attack("read a dispatch from another host of the same project")
def _() -> bool:
    with override_settings(ALLOWED_HOSTS=["a.example", "b.example"]):
        client = logged_in("ann")
        return sent(client, Host="a.example").read(client, Host="b.example")


@attack("get another host's response by the same Idempotency-Key")
def _() -> bool:
    with override_settings(ALLOWED_HOSTS=["a.example", "b.example"], REQUEST_BROKER=EVERYTHING):
        headers = {"Idempotency-Key": "shared"}
        first, second = (Client().post("/pay/", headers={**headers, "Host": f"{host}.example"}) for host in "ab")
    return first.json()["id"] == second.json()["id"]


@attack("read another tenant's dispatch as the user with the same primary key")
def _() -> bool:
    with override_settings(REQUEST_BROKER={**EVERYTHING, "TENANT": "tests.site.tenants.of_header"}):
        client = logged_in("ann")
        accepted = client.post("/pay/", headers={"X-Tenant": "a"})
        return Dispatch(accepted.json()["links"]).read(client, **{"X-Tenant": "b"})


def results() -> Iterator[tuple[str, bool]]:
    for name, function in attacks:
        yield name, function()


def main() -> int:
    runner = get_runner(settings)(verbosity=0, interactive=False)
    runner.setup_test_environment()
    databases = runner.setup_databases()
    succeeded = 0
    try:
        for name, success in results():
            print(f"{'SUCCEEDED' if success else 'refused'}: {name}")
            succeeded += success
    finally:
        runner.teardown_databases(databases)
        runner.teardown_test_environment()
    return 1 if succeeded else 0


if __name__ == "__main__":
    sys.exit(main())
