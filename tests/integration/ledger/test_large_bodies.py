"""A request that is too large for a message is stored in a file. The message contains a reference to it."""

from __future__ import annotations

import os
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import AsyncClient, Client, override_settings
from django.utils import timezone

from broker_core.dispatches import NOT_REACHED, SealedRequest, State
from broker_core.envelope import Keyring, context
from broker_django.conf import conf
from broker_django.ledger import bodies, ledger, retention
from broker_django.messaging import publishing, sealing
from broker_django.messaging.celery_app import TASK, get_app
from broker_django.models import DispatchRecord
from tests.rows import as_request
from workers import tasks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from workers.replaying.replay import Answer

LIMIT = 4_000
LARGE = bytes(range(256)) * 40
OCTETS = "application/octet-stream"
BROKER = {
    "MAX_INLINE_SIZE": LIMIT,
    "STORAGE": "sealed",
    "QUEUES": {"bulk": {"wait": 5}},
    "RULES": [{"when": "true", "queue": "bulk"}],
}


class Silent(Storage):
    """Does not answer."""

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise TimeoutError("no answer")

    save = open = delete = exists = listdir = _fail


@pytest.fixture(params=["django.core.files.storage.FileSystemStorage", "django.core.files.storage.InMemoryStorage"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    options = {"location": str(tmp_path)} if "FileSystem" in request.param else {}
    with override_settings(STORAGES={"sealed": {"BACKEND": request.param, "OPTIONS": options}}, REQUEST_BROKER=BROKER):
        yield storages["sealed"]


@pytest.fixture
def not_eager() -> Iterator[None]:
    """Accepted dispatches wait, because tests never commit."""
    get_app().conf.task_always_eager = False
    yield
    get_app().conf.task_always_eager = True


def files(storage: Storage) -> list[str]:
    try:
        return storage.listdir(bodies.DIRECTORY)[1]
    except FileNotFoundError:
        return []


def post(client: Client, body: bytes = LARGE, path: str = "/body/") -> Any:
    return client.post(path, body, content_type=OCTETS)


def accepted(client: Client, **options: Any) -> DispatchRecord:
    assert post(client, **options).status_code == 202
    return DispatchRecord.objects.latest("accepted_at")


def replay(record: DispatchRecord, argument: str | None = None) -> DispatchRecord:
    """Do what a worker does with the message."""
    task = get_app().tasks[TASK]
    args = (sealing.task_argument(as_request(record)) if argument is None else argument,)
    task.apply(args=args, task_id=str(record.pk), routing_key=record.queue, throw=False)
    record.refresh_from_db()
    return record


def test_a_large_body_arrives_unchanged_and_its_file_is_deleted(
    client: Client, storage: Storage, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        response = post(client)
        assert len(files(storage)) == 1
    assert response.content == LARGE
    record = DispatchRecord.objects.get()
    assert (record.state, bytes(record.sealed), record.sealed_file) == (State.SUCCEEDED, b"", "")
    assert files(storage) == []


def test_it_works_under_asgi(async_client: AsyncClient, storage: Storage) -> None:
    response = async_to_sync(async_client.post)("/body/", LARGE, content_type=OCTETS)
    assert response.content == LARGE
    assert len(files(storage)) == 1


def test_a_small_body_is_not_stored_in_a_file(client: Client, storage: Storage) -> None:
    assert post(client, b"small").content == b"small"
    assert files(storage) == []


def test_the_row_and_the_message_are_small_and_the_file_contains_only_ciphertext(
    client: Client, storage: Storage, not_eager: None
) -> None:
    record = accepted(client)
    assert bytes(record.sealed) == b""
    assert record.sealed_file.startswith(f"request_broker/{record.pk}.")
    argument = sealing.task_argument(as_request(record))
    assert len(argument) < 200
    assert str(record.pk).encode() not in sealing.from_text(argument), "the name is sealed, too"
    with storage.open(record.sealed_file) as file:
        sealed = file.read()
    assert len(sealed) > len(LARGE)
    assert LARGE[:32] not in sealed
    assert LARGE in sealing.open_request(sealed, str(record.pk), "bulk")


def answer(record: DispatchRecord) -> Answer:
    """Returns the answer of a worker that receives the reference."""
    return tasks._answer(SimpleNamespace(is_eager=True), record.sealed_file, record.pk, record.queue, 1)


def test_a_worker_that_does_not_find_the_file_hands_the_dispatch_back(
    client: Client, storage: Storage, not_eager: None, caplog: pytest.LogCaptureFixture
) -> None:
    record = accepted(client)
    storage.delete(record.sealed_file)
    assert answer(record).unknown_here
    record = replay(record)
    error = f"{NOT_REACHED}: the stored request body is missing"
    assert (record.state, record.error, record.attempts) == ("failed", error, 1), "an eager replay is not repeated"
    assert (record.response_status, record.response_type) == (500, "application/problem+json")
    assert record.sealed_file, "it stays a dead letter"
    assert f"Dispatch {record.pk} is not run: the stored request body is missing" in caplog.text


def test_an_altered_file_fails_the_dispatch_for_good(client: Client, storage: Storage, not_eager: None) -> None:
    record, other = accepted(client), accepted(client)
    with storage.open(other.sealed_file) as file:
        of_another = file.read()
    for sealed in (of_another, b"", b"nonsense"):
        with storage.open(record.sealed_file, "wb") as file:
            file.write(sealed)
        DispatchRecord.objects.filter(pk=record.pk).update(state="queued", attempts=0, finished_at=None)
        assert (replay(record).state, record.error) == ("failed", "the stored request body was altered")


def test_a_file_of_a_newer_release_is_left_to_a_worker_that_has_it(
    client: Client, storage: Storage, not_eager: None
) -> None:
    record = accepted(client)
    storage.delete(record.sealed_file)
    sealed = publishing.conf.keyring.seal(b"\xff of another version", context("request", str(record.pk), "bulk"))
    storage.save(record.sealed_file, ContentFile(sealed))
    found = answer(record)
    assert (found.unknown_here, "version 255" in found.error) == (True, True)


@pytest.mark.parametrize("storages", [{"sealed": {"BACKEND": f"{__name__}.Silent"}}, {}], ids=["silent", "unknown"])
def test_a_storage_that_does_not_answer_is_asked_again(
    client: Client, storage: Storage, not_eager: None, storages: dict[str, Any]
) -> None:
    record = accepted(client)
    with override_settings(STORAGES=storages):
        found = answer(record)
    assert (found.response.status, found.unknown_here) == (503, True)
    assert found.error.startswith(f"{NOT_REACHED}: the stored request body cannot be read: ")


def test_a_reference_is_valid_only_for_its_dispatch_and_queue(
    client: Client, storage: Storage, not_eager: None, caplog: pytest.LogCaptureFixture
) -> None:
    record, other = accepted(client), accepted(client)
    forged = [
        sealing.task_argument(as_request(other)),
        sealing.to_text(sealing.seal_reference(other.sealed_file, str(record.pk), "payment")),
        sealing.to_text(record.sealed_file.encode()),
        sealing.to_text(publishing.conf.keyring.seal(b"/etc/passwd", b"")),
    ]
    for argument in forged:
        assert replay(record, argument).state == "queued"
    assert caplog.text.count("is refused") == len(forged)
    assert len(files(storage)) == 2


@pytest.mark.parametrize("error", [OperationalError("database is locked"), KeyboardInterrupt()])
def test_the_file_is_deleted_if_the_row_cannot_be_written(
    client: Client, storage: Storage, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(_request: SealedRequest) -> None:
        assert len(files(storage)) == 1
        raise error

    monkeypatch.setattr(ledger, "accept", fail)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            post(client)
    else:
        assert post(client).status_code == 503
    assert files(storage) == []


def test_a_failing_storage_is_a_503(client: Client) -> None:
    with override_settings(STORAGES={"sealed": {"BACKEND": f"{__name__}.Silent"}}, REQUEST_BROKER=BROKER):
        response = post(client)
        assert (response.status_code, response["Retry-After"]) == (503, "5")
        assert not DispatchRecord.objects.exists()
        assert post(client, b"small").status_code == 200


def test_on_outage_applies_to_a_failing_storage(client: Client) -> None:
    broker = {**BROKER, "QUEUES": {"bulk": {"on_outage": "run_now"}}}
    with override_settings(STORAGES={"sealed": {"BACKEND": f"{__name__}.Silent"}}, REQUEST_BROKER=broker):
        assert post(client).content == LARGE


def test_max_body_size_limits_what_is_stored(client: Client, storage: Storage) -> None:
    with override_settings(REQUEST_BROKER={**BROKER, "MAX_BODY_SIZE": len(LARGE) - 1}):
        assert post(client).status_code == 413
    assert files(storage) == []


def test_a_failed_dispatch_keeps_its_file_until_it_is_discarded(
    client: Client, storage: Storage, not_eager: None, django_capture_on_commit_callbacks: Any
) -> None:
    client.raise_request_exception = False
    record = replay(accepted(client, path="/broken/"))
    assert (record.state, len(files(storage))) == ("failed", 1)
    with django_capture_on_commit_callbacks(execute=True):
        assert ledger.discard(record.pk, "ann")
        assert len(files(storage)) == 1
    assert files(storage) == []


def test_the_file_is_deleted_with_the_dispatch(client: Client, storage: Storage, not_eager: None) -> None:
    record = accepted(client)
    ledger.cancel(record.pk)
    later = timezone.now() + timedelta(days=6)
    assert (sum(retention.keep_house(later)), len(files(storage))) == (0, 1)
    assert (sum(retention.keep_house(later + timedelta(days=2))), files(storage)) == (1, [])


def test_dispatches_are_deleted_even_if_the_storage_does_not_answer(
    client: Client, storage: Storage, not_eager: None, caplog: pytest.LogCaptureFixture
) -> None:
    record = accepted(client)
    ledger.cancel(record.pk)
    with override_settings(STORAGES={"sealed": {"BACKEND": f"{__name__}.Silent"}}):
        assert sum(retention.keep_house(timezone.now() + timedelta(days=8))) == 1
    assert f"{record.sealed_file} was not deleted" in caplog.text


def test_a_revived_dispatch_still_has_its_file(client: Client, storage: Storage, not_eager: None) -> None:
    client.raise_request_exception = False
    record = replay(accepted(client, path="/broken/"))
    assert ledger.revive(record.pk, "ann")
    record.refresh_from_db()
    DispatchRecord.objects.filter(pk=record.pk).update(due_at=None)
    assert (replay(record).state, record.error) == ("failed", "RuntimeError")


def test_orphans_are_swept_a_day_later(client: Client, storage: Storage, not_eager: None) -> None:
    kept = accepted(client)
    orphan = bodies.save(uuid.uuid4(), conf.keyring.seal(b"orphan", b""))
    twin = bodies.save(kept.pk, conf.keyring.seal(b"of a second try", b""))
    elsewhere = bodies.save(uuid.uuid4(), Keyring(["of another installation"]).seal(b"its request", b""))
    storage.save("request_broker/somebody-elses", ContentFile(b"else"))
    assert twin != kept.sealed_file
    now = timezone.now()
    assert ledger.sweep(now + timedelta(hours=23)) == 0
    assert ledger.sweep(now + timedelta(hours=25)) == 2
    assert not storage.exists(orphan) and not storage.exists(twin)
    assert sorted(files(storage)) == sorted(
        [kept.sealed_file.rpartition("/")[2], "somebody-elses", elsewhere.rpartition("/")[2]]
    )


@pytest.mark.parametrize("other", [{"HOST": "staging"}, {"PORT": "6432"}, {"NAME": "copy"}, {"ENGINE": "x.y"}])
def test_files_of_another_database_with_the_same_key_stay(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    sealed = conf.keyring.seal(b"a request", b"")
    with monkeypatch.context() as elsewhere:
        for name, value in other.items():
            elsewhere.setitem(connection.settings_dict, name, value)
        bodies.save(uuid.uuid4(), sealed)
    storage.save(f"request_broker/{uuid.uuid4()}", ContentFile(sealed))
    bodies.save(uuid.uuid4(), b"")
    assert ledger.sweep(timezone.now() + timedelta(hours=25)) == 0
    assert len(files(storage)) == 3


def test_a_file_without_a_ledger_suffix_is_read(client: Client, storage: Storage, not_eager: None) -> None:
    record = accepted(client)
    former = storage.save(f"request_broker/{record.pk}", ContentFile(bodies.read(record.sealed_file)))
    DispatchRecord.objects.update(sealed_file=former)
    assert replay(record).state == "succeeded"


def test_the_command_sweeps_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"location": str(tmp_path)}
    backend = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": options}
    with override_settings(STORAGES={"sealed": backend}, REQUEST_BROKER=BROKER):
        orphan = tmp_path / bodies.save(uuid.uuid4(), conf.keyring.seal(b"orphan", b""))
        os.utime(orphan, (0, 0))
        call_command("broker_housekeeping")
    assert "Files deleted that belonged to no dispatch: 1." in capsys.readouterr().out
    assert not orphan.exists()


def test_there_is_nothing_to_sweep_if_nothing_was_stored(storage: Storage) -> None:
    assert ledger.sweep() == 0


def test_a_storage_that_does_not_list_its_files_is_not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(
        STORAGES={"sealed": {"BACKEND": "django.core.files.storage.Storage"}}, REQUEST_BROKER=BROKER
    ):
        assert ledger.sweep() == 0
