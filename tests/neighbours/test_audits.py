"""Audit logs record the writes of a replayed view as those of a direct one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.test import Client

import broker_django
from tests.neighbours import needs

needs("auditlog", "simple_history", "reversion")

from auditlog.models import LogEntry  # noqa: E402
from reversion.models import Revision  # noqa: E402

from tests.neighbours.conftest import PATIENCE, QUEUED, accepted, direct, finished, links_of  # noqa: E402
from tests.neighbours.sessions import LOG_IN, end_session  # noqa: E402
from tests.neighbours.settings import OURS  # noqa: E402
from tests.neighbours.shop.models import Order  # noqa: E402
from tests.neighbours.test_accounts import FATES  # noqa: E402
from tests.settings import MIDDLEWARE  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.neighbours.conftest import Project

PROJECT = "tests.neighbours.projects.audits"
pytestmark = [pytest.mark.urls(PROJECT), pytest.mark.django_db]

PACKAGES = {
    "auditlog": "auditlog.middleware.AuditlogMiddleware",
    "simple_history": "simple_history.middleware.HistoryRequestMiddleware",
    "reversion": "reversion.middleware.RevisionMiddleware",
}


def recorded(package: str) -> Any:
    """Returns the package's records of the newest order."""
    order = Order.objects.latest("pk")
    if package == "auditlog":
        entry = LogEntry.objects.get_for_object(order).get()
        return (str(entry.actor), entry.remote_addr, entry.remote_port, entry.cid, entry.actor_email)
    if package == "simple_history":
        return str(order.history.get().history_user)
    revision = Revision.objects.latest("pk")
    assert revision.version_set.get().object_id == str(order.pk)
    return str(revision.user)


@pytest.fixture
def client() -> Client:
    client = Client(headers={"x-forwarded-for": "192.0.2.7", "x-correlation-id": "c-1"})
    client.force_login(User.objects.create_user("ada", email="ada@example.org"))
    return client


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest, settings: Any) -> str:
    settings.MIDDLEWARE = [*MIDDLEWARE[:-1], PACKAGES[request.param], OURS]
    settings.AUDITLOG_CID_HEADER = "x-correlation-id"
    return str(request.param)


@pytest.mark.parametrize("path", ["/order/", "/aorder/"])
@pytest.mark.parametrize("fate", FATES)
def test_the_writer_is_recorded(
    client: Client, package: str, before_replay: Any, fate: Callable[[Client], None], path: str
) -> None:
    assert direct(client, path).status_code == 200
    there = recorded(package)
    assert "ada" in str(there)
    before_replay(lambda: fate(client))
    accepted(client, path)
    assert Order.objects.count() == 2
    assert recorded(package) == there


def test_code_writes_as_a_user(
    client: Client, package: str, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        broker_django.dispatch("/order/", method="POST", user=User.objects.get(username="ada"), queue="bulk")
    assert "ada" in str(recorded(package))


def test_no_user_is_recorded_for_an_anonymous_request(package: str) -> None:
    assert direct(Client(), "/order/").status_code == 200
    there = recorded(package)
    accepted(Client(), "/order/")
    assert recorded(package) == there


RECORDED = """
from auditlog.models import LogEntry
from reversion.models import Revision
from tests.neighbours.shop.models import Order

for order in Order.objects.order_by("pk"):
    entry = LogEntry.objects.get_for_object(order).get()
    print("recorded", entry.actor, entry.remote_addr, order.history.get().history_user)
print("revisions", [str(each.user) for each in Revision.objects.all()])
"""


@pytest.mark.server("postgres", "valkey")
@pytest.mark.parametrize("around", ["revisions", "atomic"])
def test_a_worker_records_the_same_and_the_wait_is_reported(start: Callable[..., Project], around: str) -> None:
    packages = list(PACKAGES.values()) if around == "revisions" else list(PACKAGES.values())[:2]
    variables = {"ATOMIC": "1"} if around == "atomic" else {}
    project = start("audits", AROUND=" ".join(packages), **variables)
    session, another = project.run(LOG_IN).split()[-2:]
    with httpx.Client(base_url=project.web(), timeout=PATIENCE, trust_env=False, cookies={"sessionid": session}) as ada:
        ada.post("/order/").raise_for_status()
        queued = ada.post("/order/", headers=QUEUED)
        end_session(project, session)
        worker = project.worker()
        assert finished(ada, queued).json()["pk"] == 2
        ada.cookies["sessionid"] = another
        held = ada.post("/order/", headers={**QUEUED, "Prefer": "respond-async, wait=10"})
        if around == "revisions":
            assert "wait" not in held.headers.get("Preference-Applied", ""), "the transaction of all is not over"
            held = finished(ada, held) if links_of(held) else held
        else:
            assert held.status_code == 200, "the view answered while the client was held"
        assert held.json()["pk"] == 3
    said = project.run(RECORDED)
    assert said.count("recorded ada 127.0.0.1 ada") == 3, said
    assert said.count("'ada'") == (3 if around == "revisions" else 0), said
    assert "Traceback" not in worker.logs()
