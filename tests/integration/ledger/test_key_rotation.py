"""SECRET_KEY is rotated while dispatches wait, with the old key among the fallbacks and without."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.test import Client, override_settings

from broker_core.dispatches import SealedRequest, State
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging import sealing
from broker_django.messaging.celery_app import get_app
from broker_django.models import DispatchRecord
from tests.rows import as_request
from workers import tasks
from workers.recovery import reaper, unreadable
from workers.recovery.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

OLD, NEW = "old-" + "k" * 50, "new-" + "k" * 50
KEPT = {"SECRET_KEY": NEW, "SECRET_KEY_FALLBACKS": [OLD]}
DROPPED = {"SECRET_KEY": NEW, "SECRET_KEY_FALLBACKS": []}


@pytest.fixture(autouse=True)
def not_eager() -> Iterator[None]:
    """What is accepted waits: no test commits."""
    get_app().conf.task_always_eager = False
    yield
    get_app().conf.task_always_eager = True


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[SealedRequest]:
    """What reapers hand to the message broker, which is empty."""
    handed: list[SealedRequest] = []
    monkeypatch.setattr(reaper, "publish", lambda record, _policy: bool(handed.append(record)) or True)
    monkeypatch.setattr(reaper, "waiting_messages", lambda _policy: 0)
    return handed


def accepted(client: Client) -> tuple[DispatchRecord, str]:
    """A payment that was accepted with the old key and is on the message broker, and its status URL."""
    with override_settings(SECRET_KEY=OLD):
        response = client.post("/pay/", {"amount": "5"})
    assert response.status_code == 202
    record = DispatchRecord.objects.latest("accepted_at")
    DispatchRecord.objects.filter(pk=record.pk).update(due_at=None, published_at=record.accepted_at)
    record.refresh_from_db()
    return record, response["Location"]


def deployed() -> None:
    """The web processes have the present key: they have accepted something with it, which is done by now."""
    Client().post("/pay/", {"amount": "6"})
    newest = DispatchRecord.objects.latest("accepted_at")
    DispatchRecord.objects.filter(pk=newest.pk).update(state="succeeded", finished_at=newest.accepted_at, due_at=None)


def run(record: DispatchRecord, argument: str | None = None) -> State:
    """What a worker does with the message."""
    args = (sealing.task_argument(as_request(record)) if argument is None else argument,)
    tasks.replay.apply(args=args, task_id=str(record.pk), routing_key=record.queue, throw=False)
    record.refresh_from_db()
    return record.current_state


def look(now: datetime) -> None:
    list(Reaper(lambda: now).run_pass())


def after(record: DispatchRecord, **delta: float) -> datetime:
    return record.accepted_at + timedelta(**delta)


@pytest.mark.parametrize("logged_in", [False, True])
def test_with_the_old_key_as_a_fallback_everything_goes_on(client: Client, logged_in: bool) -> None:
    if logged_in:
        with override_settings(SECRET_KEY=OLD):
            client.force_login(User.objects.create_user("ann"))
    record, location = accepted(client)
    with override_settings(**KEPT):
        assert client.get(location).json()["state"] == "queued"
        assert run(record) == State.SUCCEEDED
        assert client.get(f"{location}response/").json()["paid"] == "5"


def test_a_response_that_was_stored_before_is_read_after(client: Client) -> None:
    record, location = accepted(client)
    with override_settings(SECRET_KEY=OLD):
        assert run(record) == State.SUCCEEDED
    with override_settings(**KEPT):
        assert client.get(f"{location}response/").json()["paid"] == "5"


def test_a_client_that_is_known_by_its_session_alone_stays_known(client: Client) -> None:
    with override_settings(SECRET_KEY=OLD):
        ann = User.objects.create_user("ann")
        client.force_login(ann)
        record, location = accepted(client)
    with override_settings(**KEPT):
        assert run(record) == State.SUCCEEDED
        client.session.flush()  # which ends the session, and leaves the client its cookie
        assert client.get(f"{location}response/").json()["paid"] == "5"
        assert Client().get(f"{location}response/").status_code == 404


def test_without_the_old_key_nothing_is_run_and_the_token_is_none(client: Client) -> None:
    record, location = accepted(client)
    with override_settings(**DROPPED):
        assert run(record) == State.QUEUED
        assert record.attempts == 0
        assert {client.get(f"{location}{path}").status_code for path in ("", "response/", "events/")} == {404}


def test_what_no_key_opens_is_not_published_for_ever_but_fails(client: Client, published: list[SealedRequest]) -> None:
    record, location = accepted(client)
    with override_settings(**DROPPED):
        deployed()
        run(record)
        look(after(record, minutes=1))
        record.refresh_from_db()
        assert (record.state, record.due_at) == ("queued", after(record, minutes=2)), "a newer key may be on its way"
        look(after(record, minutes=16))
    record.refresh_from_db()
    assert (record.state, record.attempts, published) == ("failed", 1, [])
    assert record.error.startswith("the request cannot be opened: the envelope was sealed with an unknown key")
    with override_settings(**KEPT):
        document = client.get(f"{location}response/")
        assert (document.status_code, document.json()["detail"]) == (500, record.error)


def test_a_worker_with_a_wrong_key_fails_nothing_however_old(client: Client, published: Any) -> None:
    records = [accepted(client)[0] for _ in range(3)]
    with override_settings(SECRET_KEY="of another project" * 3):
        for minutes in (1, 16, 60, 1_000):
            look(after(records[0], minutes=minutes))
    assert {State(state) for state in DispatchRecord.objects.values_list("state", flat=True)} == {State.QUEUED}
    with override_settings(SECRET_KEY=OLD):
        look(after(records[0], minutes=1_002))
        assert {handed.dispatch.id for handed in published} == {record.pk for record in records}


def test_a_worker_with_a_wrong_key_publishes_no_reference_to_a_file(
    client: Client, published: Any, tmp_path: Path
) -> None:
    backend = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(tmp_path)}}
    with override_settings(STORAGES={"sealed": backend}, REQUEST_BROKER={"MAX_INLINE_SIZE": 10, "STORAGE": "sealed"}):
        record, _location = accepted(client)
        with override_settings(SECRET_KEY="of another project" * 3):
            look(after(record, minutes=1))
            assert published == []
        with override_settings(SECRET_KEY=OLD):
            look(after(record, minutes=3))
    assert [handed.dispatch.id for handed in published] == [record.pk]


def test_what_failed_for_want_of_its_key_runs_again_when_the_key_is_back(
    client: Client, published: list[SealedRequest]
) -> None:
    record, _location = accepted(client)
    with override_settings(**DROPPED):
        deployed()
        look(after(record, minutes=16))
    with override_settings(**KEPT):
        assert ledger.revive(record.pk, "operator", after(record, minutes=20))
        look(after(record, minutes=21))
        assert [handed.dispatch.id for handed in published] == [record.pk]
        assert run(record) == State.SUCCEEDED


def test_what_was_run_again_has_its_time_to_be_deployed_anew(client: Client, published: Any) -> None:
    record, _location = accepted(client)
    with override_settings(**DROPPED):
        deployed()
        look(after(record, minutes=16))
        assert ledger.revive(record.pk, "operator", after(record, minutes=20))
        look(after(record, minutes=21))
        record.refresh_from_db()
        assert record.state == "queued", "another worker may have the key already"
        look(after(record, minutes=36))
    record.refresh_from_db()
    assert record.state == "failed"


def test_what_no_key_opens_and_has_no_attempt_left_fails(client: Client, published: Any) -> None:
    record, _location = accepted(client)
    spent = {"attempts": conf.queues[record.queue].max_attempts, "published_at": None}
    DispatchRecord.objects.update(due_at=after(record, minutes=15), **spent)
    with override_settings(**DROPPED):
        deployed()
        look(after(record, minutes=16))
    record.refresh_from_db()
    assert (record.state, record.error) == ("failed", "no attempt is left")


def test_a_worker_with_the_newer_key_runs_what_an_older_one_put_off(client: Client, published: Any) -> None:
    record, _location = accepted(client)
    with override_settings(SECRET_KEY="older still" * 5):
        look(after(record, minutes=1))
    with override_settings(SECRET_KEY=OLD):
        look(after(record, minutes=3))
        assert [handed.dispatch.id for handed in published] == [record.pk]
        assert run(record) == State.SUCCEEDED


@pytest.mark.parametrize("argument", ["", "Zm9yZ2Vk" * 20, "AQ" * 100])
def test_a_forged_message_fails_nobodys_dispatch(client: Client, published: Any, argument: str) -> None:
    record, _location = accepted(client)
    with override_settings(**KEPT):
        for minutes in (1, 16, 60):
            assert run(record, argument) == State.QUEUED
            look(after(record, minutes=minutes))
        assert len(published) == 3
        assert run(record) == State.SUCCEEDED


def test_a_request_that_was_altered_in_the_ledger_fails(client: Client, published: Any) -> None:
    record, _location = accepted(client)
    DispatchRecord.objects.filter(pk=record.pk).update(sealed=bytes(record.sealed)[:-1] + b"\0\0")
    with override_settings(SECRET_KEY=OLD):
        look(after(record, minutes=16))
    record.refresh_from_db()
    assert (record.state, published) == ("failed", [])
    assert "altered" in record.error


def test_of_two_reapers_one_fails_it(client: Client, published: Any, caplog: pytest.LogCaptureFixture) -> None:
    record, _location = accepted(client)
    now = after(record, minutes=16)
    policy = conf.queues["payment"]
    with override_settings(**DROPPED):
        deployed()
        seen = [ledger.sealed(record.pk) for _ in range(2)]
        assert [unreadable.postpone_unreadable(request, policy, now) for request in seen if request] == [True, True]
    assert caplog.text.count("fails: the request cannot be opened") == 1
    record.refresh_from_db()
    assert (record.state, record.attempts) == ("failed", 1)


def test_the_file_of_a_large_request_is_left_to_a_worker_that_has_its_key(client: Client, tmp_path: Path) -> None:
    backend = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(tmp_path)}}
    broker = {"MAX_INLINE_SIZE": 10, "STORAGE": "sealed"}
    with override_settings(STORAGES={"sealed": backend}, REQUEST_BROKER=broker):
        record, _location = accepted(client)
        with override_settings(**DROPPED):
            task = SimpleNamespace(is_eager=True)
            assert tasks._answer(task, record.sealed_file, record.pk, record.queue, 1).unknown_here
            assert run(record) == State.FAILED, "eager tasks are not retried"
    found = "the stored request body cannot be opened: the envelope was sealed with an unknown key"
    assert record.error.startswith(f"the view was not reached: {found}")
