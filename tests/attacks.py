"""What an attacker would try: `python -m tests.attacks`.

Some know the URL of somebody else's dispatch, some may edit routers or write to a store that the broker shares. Each
line is an attack, and says whether it was refused. The exit status is 1 if one was not.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import Permission, User  # noqa: E402
from django.core.files.storage import InMemoryStorage  # noqa: E402
from django.core.files.uploadedfile import SimpleUploadedFile  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client, override_settings  # noqa: E402
from django.test.utils import get_runner  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_celery_results.models import TaskResult  # noqa: E402

from broker_core.envelope import Keyring  # noqa: E402
from broker_django.conf import conf  # noqa: E402
from broker_django.ledger import bodies, ledger  # noqa: E402
from broker_django.models import DispatchRecord, Router  # noqa: E402
from broker_django.routing.transfer import FIELDS  # noqa: E402
from tests import browsers  # noqa: E402
from tests.browsers import with_a_session  # noqa: E402
from tests.containers import ROOT  # noqa: E402
from tests.integration.identity import test_drf, test_unidentified_owners  # noqa: E402
from tests.processes import finished  # noqa: E402
from workers.recovery.reaper import Reaper  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERYTHING: dict[str, Any] = {"RULES": [{"when": "true", "queue": "bulk"}]}
EDGE = {"Authorization": "Basic ZWRnZTplZGdl"}
KEY = {"Idempotency-Key": "a-key-that-leaked"}
LOGIN = {"username": "mallory", "password": "secret"}
TRY, IMPORT = "/admin/broker_django/router/try/", "/admin/broker_django/router/import/"

attacks: list[tuple[str, Callable[[], bool]]] = []


def attack(name: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Register a function that says whether the attack succeeded."""

    def register(function: Callable[[], bool]) -> Callable[[], bool]:
        attacks.append((name, function))
        return function

    return register


@dataclass(frozen=True, slots=True)
class Dispatch:
    """URLs that an attacker knows."""

    id: str
    links: dict[str, str]

    @classmethod
    def of(cls, accepted: Any) -> Dispatch:
        document = accepted.json()
        return cls(document["id"], document["links"])

    def read(self, client: Client, **headers: str) -> bool:
        """Whether any URL returns the dispatch."""
        asked = (client.get(self.links[name], headers=headers) for name in ("self", "response", "events"))
        return any(response.status_code != 404 for response in asked)

    def cancel(self, client: Client, **headers: str) -> bool:
        return client.delete(self.links["cancel"], headers=headers).status_code != 404

    def cookies(self, client: Client, **headers: str) -> bool:
        """Whether the response sets any cookies."""
        response = client.get(self.links["response"], headers=headers)
        return bool(response.cookies) or bool({"Set-Cookie", "Clear-Site-Data"} & response.headers.keys())


def sent(client: Client, path: str = "/pay/", data: Any = None, **headers: str) -> Dispatch:
    """Returns a dispatch that its sender can read: otherwise a refused attack would prove nothing."""
    with override_settings(REQUEST_BROKER=EVERYTHING):
        accepted = client.post(path, data or {}, headers=headers)
    dispatch = Dispatch.of(accepted)
    assert dispatch.read(client, **headers), "its owner cannot read it"
    return dispatch


def user(name: str) -> User:
    found, _created = User.objects.get_or_create(username=name, defaults={"is_active": True})
    found.is_active = True
    found.set_password("secret")
    found.save()
    return found


def logged_in(name: str) -> Client:
    return browsers.logged_in(user(name).username)


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
        return Dispatch.of(accepted).read(client, **{"X-Tenant": "b"})


def sent_to_rest(token: str) -> Dispatch:
    test_drf.accepted_now.add(token)
    return sent(Client(), "/whose/", **{"X-Custom": token})


@attack("read the dispatch of a user who is no row with another's token")
def _() -> bool:
    test_drf.accepted_now.add("no-key:bob")
    with override_settings(ROOT_URLCONF=test_drf.__name__):
        return sent_to_rest("no-key:ada").read(Client(), **{"X-Custom": "no-key:bob"})


@attack("read a user's dispatch as another kind of user with the same primary key")
def _() -> bool:
    user("ada")
    test_drf.accepted_now.add("foreign-key:ada")
    with override_settings(ROOT_URLCONF=test_drf.__name__):
        return sent_to_rest("row:ada").read(Client(), **{"X-Custom": "foreign-key:ada"})


@attack("read a dispatch with a token that has expired")
def _() -> bool:
    with override_settings(ROOT_URLCONF=test_drf.__name__):
        dispatch = sent_to_rest("no-key:ada")
        test_drf.accepted_now.clear()
        return dispatch.read(Client(), **{"X-Custom": "no-key:ada"})


def sent_by_partner(url: str, **headers: str) -> Dispatch:
    with override_settings(REQUEST_BROKER={}):
        return sent(Client(), url, **headers)


@attack("read the dispatch of a service with another of its keys")
def _() -> bool:
    with override_settings(ROOT_URLCONF=test_unidentified_owners.__name__):
        dispatch = sent_by_partner("/whose/", **{"X-Partner": "one user for all keys:1"})
        return dispatch.read(Client(), **{"X-Partner": "one user for all keys:2"}) or dispatch.read(Client())


@attack("read the dispatch of a user who cannot be distinguished from others")
def _() -> bool:
    with override_settings(ROOT_URLCONF=test_unidentified_owners.__name__):
        dispatch = sent_by_partner("/whose/", **{"X-Partner": "a lock:ann"})
        return dispatch.read(Client(), **{"X-Partner": "a lock:bob"}) or dispatch.read(Client())


@attack("read the dispatch of a user whom a view finds only when it runs")
def _() -> bool:
    user("ann")
    with override_settings(ROOT_URLCONF=test_unidentified_owners.__name__):
        return sent_by_partner("/by-dispatch/", **{"X-Partner": "row:ann"}).read(Client())


@attack("read the dispatch of another user of the same partner")
def _() -> bool:
    user("ann"), user("bob")
    partner = {"X-Api-Key": "partner"}
    with override_settings(ROOT_URLCONF=test_unidentified_owners.__name__):
        dispatch = sent_by_partner("/on-behalf/", **partner, **{"X-On-Behalf-Of": "ann"})
        return dispatch.read(Client(), **partner, **{"X-On-Behalf-Of": "bob"})


@attack("get the response of another token by the same Idempotency-Key, in a field that nobody has named")
def _() -> bool:
    with override_settings(REQUEST_BROKER=EVERYTHING):
        first, second = (Client().post("/pay/", headers={**KEY, "X-Token": token}) for token in "12")
    return first.json()["id"] == second.json().get("id")


@attack("have another installation's files swept from the storage that both use")
def _() -> bool:
    storage = InMemoryStorage()
    with patch.object(bodies, "_storage", lambda: storage):
        theirs = bodies.save(uuid.uuid4(), Keyring(["theirs"]).seal(b"a request", b""))
        with patch.dict(connection.settings_dict, HOST="staging"):
            copied = bodies.save(uuid.uuid4(), conf.keyring.seal(b"a request", b""))
        ours = bodies.save(uuid.uuid4(), conf.keyring.seal(b"a request", b""))
        ledger.sweep(timezone.now() + timedelta(days=2))
        assert not storage.exists(ours), "nothing was swept"
        return not (storage.exists(theirs) and storage.exists(copied))


@attack("end the process, or keep it busy, by a condition")
def _() -> bool:
    """Within two gigabytes, and twenty seconds for all of them."""
    conditions = [
        "['a']" + ".map(b, b + b)" * 32 + " == []",
        "request.query" + ".filter(k, true)" * 100 + ".size() == 0",
        "request.query.map(k, request.query) == []",
        "request.query.map(k, [[request.full_path]]) == []",
        "[1, 2, 3].all(a, [1, 2, 3].all(b, [1, 2, 3].all(c, a + b + c > 0)))",
        "(" * 1900,
        r"request.query.exists(k, k.matches('\\w{20}$'))",
        r"request.query.exists(k, 'a'.matches(k + '\\pL{200}$'))",
        "request.query.map(k, request.full_path + request.full_path) == []",
        "request.query.all(k, (" + "request.full_path + " * 90 + "k).size() > 0)",
        "request.cookies.exists(k, k in [" + "request.full_path, " * 90 + "k])",
        "request.cookies.filter(k, true).map(k, request.cookies[k]).size() == 0",
    ]
    limits = "import resource as r; r.setrlimit(r.RLIMIT_AS, (2 << 30, 2 << 30)); r.setrlimit(r.RLIMIT_CPU, (20, 20))"
    program = f"""{limits}
import contextlib
from broker_core import conditions, errors
values = {{"request.query": {{str(k): "v" * 20 for k in range(1000)}}, "request.full_path": "/" * 60_000}}
values["request.cookies"] = {{str(k): "" for k in range(20_000)}}
for text in {conditions}:
    with contextlib.suppress(errors.InvalidConditionError, ValueError, TypeError, RuntimeError):
        conditions.Condition(text).holds(conditions.context(values))
"""
    done = finished([sys.executable, "-c", program], {**os.environ, "PYTHONPATH": str(ROOT)})
    return done.returncode != 0


@attack("have the response of another attempt handed out")
def _() -> bool:
    client = Client()
    dispatch = sent(client)
    DispatchRecord.objects.filter(pk=dispatch.id).update(attempts=2)
    return client.get(dispatch.links["response"]).status_code != 410


@attack("have a response handed out with another status than the view's")
def _() -> bool:
    client = Client()
    dispatch = sent(client)
    DispatchRecord.objects.filter(pk=dispatch.id).update(response_status=500)
    for stored in TaskResult.objects.filter(task_id=dispatch.id):
        stored.result = json.dumps({**json.loads(stored.result), "status": 500})
        stored.save()
    return client.get(dispatch.links["response"]).status_code != 201


@attack("keep the log busy by a long error")
def _() -> bool:
    texts = ["a://" * 500_000, "password=" * 300_000, "password " * 300_000, "://" * 10**6, "@" * 10**6, " " * 10**6]
    program = f"""import resource; resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from broker_core.redaction import redacted
for text in {[(text[:9], len(text)) for text in texts]}:
    redacted(OSError((text[0] * text[1])[:text[1]]))
"""
    return finished([sys.executable, "-c", program], {**os.environ, "PYTHONPATH": str(ROOT)}).returncode != 0


@attack("send commands to the terminal of an operator")
def _() -> bool:
    dispatch, said = sent(Client(), "/pay/"), io.StringIO()
    harm = "\x1b]0;pwned\x07\x9b2J\r\n\u202e"
    DispatchRecord.objects.filter(pk=dispatch.id).update(state="failed", path=f"/{harm}", error=harm, route=harm)
    Router.objects.create(code=harm, source="/pay/", action="302", condition=f"'{harm!r}' == request.path")
    asked = (
        ["broker_dispatches", "list"],
        ["broker_dispatches", "list", "--groups"],
        ["broker_explain", "GET", "/pay/"],
    )
    for arguments in asked:
        call_command(*arguments, stdout=said, no_color=True)
    Router.objects.all().delete()
    assert dispatch.id in said.getvalue(), "it was not listed"
    return any(letter in said.getvalue() for letter in harm if letter != "\n" and not letter.isprintable())


@attack("learn the names of workers from a dispatch whose worker was lost")
def _() -> bool:
    client, now = Client(), timezone.now()
    dispatch = sent(client)
    running = {"state": "running", "worker": "broker@db-7.internal", "attempts": 9, "finished_at": None}
    DispatchRecord.objects.filter(pk=dispatch.id).update(**running, started_at=now, due_at=now)
    reaper = Reaper(iter([now + timedelta(seconds=10 * step) for step in range(1, 400)]).__next__)
    while DispatchRecord.objects.get(pk=dispatch.id).state == "running":
        for _step in reaper.run_pass():
            pass
    status = client.get(dispatch.links["self"])
    assert status.json()["error"], "it was not lost"
    return b"db-7" in status.content


@attack("learn which users there are, with the permission to see routers")
def _() -> bool:
    clerk = user("clerk")
    clerk.is_staff = True
    clerk.save()
    clerk.user_permissions.add(Permission.objects.get(codename="view_router"))
    user("ann")
    client = logged_in("clerk")
    pages = [client.get(TRY, {"method": "GET", "path": "/pay/", "user": name}) for name in ("ann", "nobody-at-all")]
    assert all(b"/pay/" in page.content for page in pages), "there was no page"
    texts = [re.sub(rb'csrfmiddlewaretoken" value="\w+|nobody-at-all|ann\b', b"", page.content) for page in pages]
    return texts[0] != texts[1] or b'name="user"' in texts[0]


@attack("break the import of routers by an odd file")
def _() -> bool:
    User.objects.create_superuser("root", password="secret")
    client = logged_in("root")
    client.raise_request_exception = False
    odd = [None, "", 0, -1, 10**30, 1e308, True, [], {}, [None], {"a": {}}, "x" * 10_000, "a\0b", "2026-99-99"]
    entries = [
        {"model": "broker_django.router", "pk": 1, "fields": {name: value}} for name in FIELDS[Router] for value in odd
    ]
    entries += [{"model": value, "pk": value, "fields": value} for value in odd]
    files = [json.dumps([entry]).encode() for entry in entries] + [json.dumps(value).encode() for value in odd]
    files += [b"\xff\xfe", b"[" * 100_000, b'["\\ud800"]', b"[1e999, NaN]", b""]
    posted = (client.post(IMPORT, {"file": SimpleUploadedFile("routers.json", file)}) for file in files)
    return any(answer.status_code >= 500 for answer in posted)


@attack("know the secret key of an installation that was started from docker-compose.yml")
def _() -> bool:
    text = (ROOT / "docker-compose.yml").read_text()
    given = re.findall(r"(?:SECRET_KEY|PASSWORD\w*): *(.+)", text)
    assert given, "it has no such setting"
    return any(not re.match(r"\$\{\w+:\?", value) for value in given)


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
