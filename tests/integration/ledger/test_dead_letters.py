"""Dead letters in the admin and on the command line."""

from __future__ import annotations

import io
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, ManagementUtility, call_command
from django.utils import timezone

from broker_core.dispatches import State
from broker_django.admin.dispatches import history
from broker_django.models import ActionRecord, AttemptRecord, DispatchRecord

if TYPE_CHECKING:
    from pathlib import Path

    from django.test import Client

pytestmark = pytest.mark.django_db

CHANGELIST = "/admin/broker_django/dispatchrecord/"


def letter(error: str = "RuntimeError", state: State = State.FAILED, **values: Any) -> DispatchRecord:
    now = timezone.now()
    values = {"queue": "bulk", "method": "POST", "path": "/x/", "sealed": b"sealed", "attempts": 3, **values}
    moments = {"accepted_at": now - timedelta(hours=1), "started_at": now, "finished_at": now}
    return DispatchRecord.objects.create(id=uuid.uuid4(), state=state, error=error, **{**moments, **values})


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command("broker_dispatches", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def states(*records: DispatchRecord) -> list[str]:
    found = dict(DispatchRecord.objects.values_list("pk", "state"))
    return [found[record.pk] for record in records]


def test_one_some_or_all_are_run_again() -> None:
    first, second, third, other = letter(), letter(), letter(queue="payment"), letter("ValueError")
    assert "1 dispatch runs again" in command("retry", str(first.pk))
    assert states(first, second, third, other) == ["queued", "failed", "failed", "failed"]
    assert "2 dispatches run again" in command("retry", "--error", "runtime")
    assert states(first, second, third, other) == ["queued", "queued", "queued", "failed"]
    assert "1 dispatch runs again" in command("retry", "--all")
    assert "0 dispatches run again" in command("retry", "--all")
    assert "@" in ActionRecord.objects.get(dispatch=first).actor


def test_more_than_a_chunk_is_run_again_and_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_django.ledger.dead_letters.CHUNK", 2)
    for _ in range(5):
        letter()
    assert "5 dispatches run again" in command("retry", "--all")
    for _ in range(5):
        letter("ValueError")
    assert "5 dead letters are discarded" in command("discard", "--error", "ValueError", "--actor", "ada")
    assert ActionRecord.objects.filter(action="discard", actor="ada").count() == 5


def test_filters_select_dead_letters() -> None:
    old = letter(accepted_at=timezone.now() - timedelta(days=3))
    expired, done = letter("", State.EXPIRED), letter("", State.SUCCEEDED, sealed=b"")
    recent = letter(route="/x/<int:pk>/")
    assert "1 dispatch runs again" in command("retry", "--older-than", "2d")
    assert states(old, expired, recent, done) == ["queued", "expired", "failed", "succeeded"]
    assert "match: 1" in command("retry", "--state", "expired", "--dry-run")
    assert "1 dead letter is discarded" in command("discard", "--route", "/x/<int:pk>/")
    assert states(expired, recent) == ["expired", "failed"]


@pytest.mark.parametrize("arguments", [["retry"], ["discard"], ["retry", "no-id"], ["retry", "--older-than", "soon"]])
def test_invalid_arguments_are_refused(arguments: list[str]) -> None:
    record = letter()
    with pytest.raises(CommandError):
        command(*arguments)
    assert states(record) == ["failed"]


def test_a_short_id_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    record = letter()
    with pytest.raises(CommandError, match="is not a whole dispatch id"):
        command("retry", str(record.pk)[:8])
    with pytest.raises(SystemExit):
        ManagementUtility(["manage.py", "broker_dispatches", "retry", str(record.pk)[:8]]).execute()
    assert "usage" not in capsys.readouterr().err


def test_an_id_of_no_dead_letter_is_reported() -> None:
    dead, done = letter(), letter("", State.SUCCEEDED, sealed=b"")
    with pytest.raises(CommandError, match=f"not dead letters: {done.pk}$"):
        command("retry", str(dead.pk), str(done.pk))
    assert states(dead, done) == ["queued", "succeeded"]


def test_they_are_listed_and_grouped() -> None:
    letter(), letter(), letter("ValueError", queue="payment")
    listed = command("list", "--queue", "payment")
    assert "ValueError" in listed
    assert "RuntimeError" not in listed
    groups = command("list", "--groups").splitlines()
    assert [line.split()[0] for line in groups] == ["2", "1"]
    assert "bulk  failed" in groups[0]


def staff(*permissions: str) -> User:
    user = User.objects.create_user("eve", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_dispatchrecord", *permissions]))
    return user


@pytest.mark.parametrize(("action", "permission"), [("run_again", "retry"), ("discard", "discard")])
def test_admin_actions_require_a_permission(client: Client, action: str, permission: str) -> None:
    record, other = letter(), letter()
    client.force_login(staff())
    chosen = {"action": action, "_selected_action": [str(record.pk)]}
    client.post(CHANGELIST, chosen)
    assert not ActionRecord.objects.exists(), "permission to view is not permission to act"
    User.objects.all().delete()
    client.force_login(staff(f"{permission}_dispatchrecord"))
    client.post(CHANGELIST, chosen)
    [recorded] = ActionRecord.objects.all()
    assert (recorded.dispatch_id, recorded.actor) == (record.pk, "eve in the admin")
    assert LogEntry.objects.get().object_id == str(record.pk)
    assert states(other) == ["failed"]
    shown = client.get(f"{CHANGELIST}{record.pk}/change/").content.decode()
    assert "eve in the admin" in shown


def test_the_admin_groups_them_by_error(client: Client) -> None:
    letter(), letter(), letter("ValueError")
    letter("", State.SUCCEEDED, sealed=b"")
    client.force_login(User.objects.create_superuser("root"))
    page = client.get(CHANGELIST, {"dead": "=RuntimeError"})
    assert page.context["cl"].result_count == 2
    assert client.get(CHANGELIST, {"dead": "all"}).context["cl"].result_count == 3
    assert "RuntimeError (2)" in page.content.decode()


def test_the_history_shows_the_failure_before_a_revival() -> None:
    record = letter(attempts=2)
    AttemptRecord.objects.create(
        dispatch=record, number=1, started_at=record.accepted_at, ended_at=record.accepted_at, error="ValueError"
    )
    command("retry", str(record.pk), "--actor", "ada")
    DispatchRecord.objects.update(
        state=State.SUCCEEDED, attempts=3, started_at=timezone.now(), finished_at=timezone.now()
    )
    record.refresh_from_db()
    shown = [(state.value, detail.partition(" on ")[0]) for state, _at, detail in history(record)[1:]]
    assert shown == [
        ("running", "attempt 1"),
        ("queued", "ValueError"),
        ("running", "attempt 2"),
        ("failed", "RuntimeError"),
        ("queued", "again, by ada"),
        ("running", "attempt 3"),
        ("succeeded", ""),
    ]


def test_the_admin_of_a_tenant_shows_only_its_own(client: Client, settings: Any) -> None:
    settings.REQUEST_BROKER = {"TENANT": "tests.site.tenants.of_header"}
    one, two = letter("OneError", tenant="one"), letter("TwoError", tenant="two")
    client.force_login(User.objects.create_superuser("root"))
    for tenant, seen in (("one", [one]), ("two", [two]), ("", [one, two]), ("public", [])):
        headers = {"X-Tenant": tenant}
        page = client.get(CHANGELIST, headers=headers).content.decode()
        assert [each for each in (one, two) if str(each.pk) in page] == seen
        assert [each for each in (one, two) if each.error in page] == seen
        found = [client.get(f"{CHANGELIST}{each.pk}/change/", headers=headers).status_code for each in (one, two)]
        assert [status == 200 for status in found] == [each in seen for each in (one, two)]


def test_the_public_admin_of_django_tenants_shows_all(
    client: Client, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without django-tenants, a tenant may be named "public"."""
    (tmp_path / "django_tenants").mkdir()
    (tmp_path / "django_tenants" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    settings.REQUEST_BROKER = {"TENANT": "tests.site.tenants.of_header"}
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django_tenants"]
    letters = [letter("OneError", tenant="one"), letter("TwoError", tenant="two")]
    client.force_login(User.objects.create_superuser("root"))
    for tenant, seen in (("public", letters), ("one", letters[:1])):
        page = client.get(CHANGELIST, headers={"X-Tenant": tenant}).content.decode()
        assert [each for each in letters if str(each.pk) in page] == seen
