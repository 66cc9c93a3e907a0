"""The broker's tables stay in one database, even if the project's routers choose a database by request."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import OperationalError, connections
from django.test import Client, RequestFactory
from django.utils import timezone
from django_celery_results.models import TaskResult

import broker_django
from broker_core.dispatches import Selection
from broker_core.errors import UnavailableError
from broker_django import signals
from broker_django.ledger import ledger, retention
from broker_django.ledger.rows import rows
from broker_django.management.commands import import_django_route
from broker_django.messaging.celery_app import get_app
from broker_django.models import ActionRecord, AttemptRecord, Destination, DispatchRecord, Router, database
from broker_django.operations import doctor
from broker_django.tracking import waiting
from tests.site import tenants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_django.fixtures import SettingsWrapper

BY_REQUEST = [tenants.ByContext, tenants.ByThread, tenants.Strict, tenants.Replica]


@pytest.fixture
def tenant(settings: SettingsWrapper) -> Iterator[str]:
    """A database without the broker's tables: every query for them fails."""
    alias = "tenant"
    declared = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    connections.settings[alias] = connections.configure_settings({"default": declared})["default"]
    settings.MIDDLEWARE = ["tests.site.tenants.tenant_middleware", *settings.MIDDLEWARE]
    yield alias
    assert connections[alias].connection is None, "no query was made"
    tenants.leave()
    del connections[alias], connections.settings[alias]


@pytest.fixture(params=BY_REQUEST, ids=lambda router: router.__name__)
def routed(request: pytest.FixtureRequest, tenant: str, settings: SettingsWrapper) -> str:
    settings.DATABASE_ROUTERS = [request.param()]
    return tenant


@pytest.fixture
def staff(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("ada"))
    return client


def failed(**values: Any) -> DispatchRecord:
    now = timezone.now()
    record = DispatchRecord(queue="bulk", method="GET", path="/", state="failed", sealed=b"sealed", error="broken")
    record.accepted_at = record.started_at = record.finished_at = now
    record.attempts = 1
    for name, value in values.items():
        setattr(record, name, value)
    record.save()
    return record


def test_a_request_is_accepted_run_and_polled(routed: str, client: Client) -> None:
    accepted = client.post("/rest/", headers={"Idempotency-Key": '"one"'})
    assert accepted.status_code in {401, 403}, "the view refuses it first"
    accepted = client.get("/report/2026/")
    assert accepted.status_code == 202
    document = client.get(accepted.headers["Location"]).json()
    assert document["state"] == "succeeded"
    assert client.get(document["links"]["response"]).json()["year"] == 2026
    assert DispatchRecord.objects.using("default").get().state == "succeeded"
    assert TaskResult.objects.using("default").get().status == "SUCCESS"


def test_a_request_is_accepted_run_and_polled_under_asgi(routed: str, async_client: Any) -> None:
    get = async_to_sync(async_client.get)
    accepted = get("/report/2026/")
    assert get(accepted.headers["Location"]).json()["state"] == "succeeded"


def test_a_key_finds_its_dispatch(routed: str, client: Client, settings: SettingsWrapper) -> None:
    first, second = (client.post("/charge/", headers={"Idempotency-Key": '"one"'}) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 201)
    assert second.json()["id"] == first.json()["id"]


def test_code_dispatches_into_the_same_database(routed: str, django_capture_on_commit_callbacks: Any) -> None:
    tenants.tenant_middleware(lambda _request: None)(RequestFactory().get("/"))
    request = RequestFactory().get("/report/2026/")
    with django_capture_on_commit_callbacks(execute=True):
        dispatch = broker_django.dispatch(request, queue="bulk")
    record = DispatchRecord.objects.using("default").get(pk=dispatch.pk)
    assert record.state == "succeeded"
    assert list(record.actions.all()) == list(record.ended_attempts.all()) == []


def test_dead_letters_are_listed_revived_and_deleted_in_the_admin(routed: str, staff: Client) -> None:
    records = [failed() for _ in range(3)]
    url = "/admin/broker_django/dispatchrecord/"
    assert staff.get(f"{url}?dead=all").status_code == 200
    selected = {"action": "run_again", "_selected_action": [str(records[0].pk)]}
    assert "1 dispatch runs again" in staff.post(url, selected, follow=True).content.decode()
    assert ActionRecord.objects.using("default").get().dispatch_id == records[0].pk
    assert AttemptRecord.objects.using("default").get().error == "broken"
    assert b"broken" in staff.get(f"{url}{records[0].pk}/change/").content
    selected = {"action": "discard", "_selected_action": [str(records[1].pk)]}
    staff.post(url, selected)
    assert records[1].pk not in ledger.dead_letters(Selection())
    call_command("broker_dispatches", "list")
    assert sum(retention.keep_house(timezone.now() + timedelta(days=400))) == 2


def test_routers_are_made_changed_exported_imported_and_deleted_in_the_admin(routed: str, staff: Client) -> None:
    url = "/admin/broker_django/router/"
    form = {
        "code": "shop", "source": "/old/", "rank": 1, "action": "302", "condition": '"*"', "is_active": "on",
        "sticky_by": "session", "description": "", "methods": "", "queue": "", "sticky_name": "",
        "destinations-TOTAL_FORMS": 1, "destinations-INITIAL_FORMS": 0, "destinations-0-url": "/new/",
        "destinations-0-weight": 1, "destinations-0-is_active": "on",
    }  # fmt: skip
    added = staff.post(f"{url}add/", form)
    assert added.status_code == 302, added.context["errors"]
    row = Router.objects.using("default").get()
    assert Destination.objects.using("default").get().router_id == row.pk
    assert staff.get("/old/").headers["Location"] == "/new/"
    again = staff.post(f"{url}add/", {**form, "code": "shop2"})
    assert b"an active router with this source" in again.content
    changed = {
        **form, "rank": 2, "destinations-INITIAL_FORMS": 1, "destinations-0-url": "/newer/",
        "destinations-0-id": row.destinations.get().pk, "destinations-0-router": row.pk,
    }  # fmt: skip
    assert staff.post(f"{url}{row.pk}/change/", changed).status_code == 302
    assert staff.get("/old/").headers["Location"] == "/newer/"
    exported = staff.post(url, {"action": "export", "_selected_action": [row.pk]})
    assert len(json.loads(exported.content)) == 2
    assert staff.get(url).status_code == 200
    staff.post(url, {"action": "drain", "_selected_action": [row.pk]})
    assert row.destinations.get().weight == 0
    assert staff.post(f"{url}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Router.objects.using("default").exists()
    file = SimpleUploadedFile("routers.json", exported.content, "application/json")
    assert staff.post(f"{url}import/", {"file": file}).status_code == 302
    assert Destination.objects.using("default").get().url == "/newer/"


def test_the_projects_routers_decide_where_its_own_results_are_stored(tenant: str, settings: SettingsWrapper) -> None:
    settings.DATABASE_ROUTERS = [tenants.ByContext()]
    tenants.TENANT.set(tenant)
    assert TaskResult.objects.db == tenant
    with database.results_too():
        assert TaskResult.objects.db == "default"
    assert rows().db == DispatchRecord.objects.db == "default"


@pytest.mark.django_db(transaction=True)
def test_receivers_of_signals_read_the_results_of_the_project(tenant: str, settings: SettingsWrapper) -> None:
    settings.DATABASE_ROUTERS = [tenants.ByContext()]
    tenants.TENANT.set(tenant)
    read_from: list[str] = []

    def read(**_: Any) -> None:
        read_from.append(TaskResult.objects.db)

    for sent in (signals.dispatch_accepted, signals.dispatch_started, signals.dispatch_finished):
        sent.connect(read)
    broker_django.dispatch("/echo/", queue="bulk")
    assert read_from == [tenant] * 3


def test_the_doctor_checks_the_results_in_the_ledgers_database(tenant: str, settings: SettingsWrapper) -> None:
    settings.DATABASE_ROUTERS = [tenants.ByContext()]
    tenants.TENANT.set(tenant)
    finding = doctor._result_store(get_app())
    assert finding.well, finding


def test_health_checks_the_ledgers_database(
    tenant: str, client: Client, settings: SettingsWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise OperationalError("away")

    monkeypatch.setattr(connections[tenant], "cursor", away)
    assert client.get("/broker/health/").status_code == 200
    settings.REQUEST_BROKER = {"DATABASE": tenant}
    assert client.get("/broker/health/").status_code == 503


def test_in_transaction_checks_the_ledgers_database(tenant: str, settings: SettingsWrapper) -> None:
    assert database.in_transaction()
    settings.REQUEST_BROKER = {"DATABASE": tenant}
    assert not database.in_transaction()


@pytest.mark.parametrize(("ledger_only", "closed"), [(True, {"ledger"}), (False, {"ledger", "projects"})])
def test_a_waiting_request_can_close_only_the_connection_to_the_ledger(
    settings: SettingsWrapper, monkeypatch: pytest.MonkeyPatch, *, ledger_only: bool, closed: set[str]
) -> None:
    settings.REQUEST_BROKER = {"DATABASE": "ledger"}
    closed_aliases: set[str] = set()

    def connected(alias: str) -> SimpleNamespace:
        known = {"alias": alias, "connection": True, "autocommit": True, "in_atomic_block": False}
        return SimpleNamespace(**known, close=lambda: closed_aliases.add(alias))

    both = [connected("ledger"), connected("projects")]
    monkeypatch.setattr(waiting, "connections", SimpleNamespace(all=lambda **_options: both))
    waiting._close_connections(ledger_only=ledger_only)
    assert closed_aliases == closed


def test_help_of_a_command_asks_no_router(tenant: str, settings: SettingsWrapper) -> None:
    asked: list[Any] = []

    class Asking:
        def db_for_write(self, model: Any, **_hints: Any) -> None:
            asked.append(model)

    settings.DATABASE_ROUTERS = [Asking()]
    import_django_route.Command().create_parser("manage.py", "import_django_route").format_help()
    assert not asked


def test_a_row_that_was_read_with_using_stays_in_its_database(tenant: str) -> None:
    record = DispatchRecord(method="GET")
    record._state.db = tenant
    assert database.BrokerRouter().db_for_write(DispatchRecord, instance=record) == tenant


def test_the_setting_database_names_the_database(tenant: str, settings: SettingsWrapper) -> None:
    settings.REQUEST_BROKER = {"DATABASE": tenant}
    assert rows().db == DispatchRecord.objects.db == Router.objects.db == database.alias() == tenant
    settings.REQUEST_BROKER = {}
    assert rows().db == "default"


def test_routers_that_do_not_depend_on_the_request_are_respected(tenant: str, settings: SettingsWrapper) -> None:
    settings.DATABASE_ROUTERS = [tenants.Pinned()]
    assert rows().db == tenant
    settings.DATABASE_ROUTERS = []
    assert rows().db == "default"


def test_a_router_that_failed_is_asked_again(tenant: str, settings: SettingsWrapper) -> None:
    answers = [OperationalError("the database is away"), OperationalError("it still is"), tenant]

    class Asking:
        def db_for_write(self, model: Any, **_hints: Any) -> str | None:
            if model is not DispatchRecord:
                return None
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    settings.DATABASE_ROUTERS = [Asking()]
    with pytest.raises(UnavailableError):
        broker_django.dispatch("/report/2026/", queue="bulk")
    with pytest.raises(OperationalError):
        database.alias()
    assert [database.alias(), database.alias()] == [tenant, tenant]
