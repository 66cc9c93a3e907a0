from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import states
from django.db import connection
from django.db.models import ProtectedError
from django.db.models.signals import pre_delete
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django_celery_results.models import TaskResult

from broker_core.dispatches import State
from broker_django.ledger import ledger, results, retention
from broker_django.messaging.celery_app import get_app
from broker_django.models import ActionRecord, AttemptRecord, DispatchRecord

if TYPE_CHECKING:
    import uuid

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def finished(at: datetime, state: State = State.SUCCEEDED, **fields: Any) -> DispatchRecord:
    given = {"queue": "bulk", "method": "GET", "path": "/", "route": "/", "sealed": b"sealed", **fields}
    return DispatchRecord.objects.create(state=state, accepted_at=at, finished_at=at, **given)


def stored(record: DispatchRecord) -> None:
    get_app().backend.store_result(str(record.pk), {"status": 200}, states.SUCCESS)


def left() -> set[uuid.UUID]:
    return set(DispatchRecord.objects.values_list("pk", flat=True))


def test_old_dispatches_are_deleted_in_chunks(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "CHUNK", 2)
    for number in range(5):
        finished(now - 8 * DAY - number * DAY)
    kept = finished(now - 6 * DAY)
    assert list(retention.keep_house(now)) == [2, 2, 1]
    assert left() == {kept.pk}


def test_queue_and_state_determine_how_long_a_dispatch_is_kept(now: datetime) -> None:
    queues = {"bulk": {"retention": {"succeeded": 60}}, "payment": {"retention": 3_600}}
    before = now - timedelta(minutes=30)
    finished(before)
    kept = [finished(before, State.FAILED), finished(before, queue="payment"), finished(before, queue="realtime")]
    with override_settings(REQUEST_BROKER={"QUEUES": queues}):
        assert sum(retention.keep_house(now)) == 1
        assert left() == {record.pk for record in kept}
        assert sum(retention.keep_house(now + timedelta(hours=1))) == 1


def test_unfinished_dispatches_are_kept(now: datetime) -> None:
    long_ago = now - 100 * DAY
    waiting = finished(long_ago, State.QUEUED)
    DispatchRecord.objects.update(finished_at=None)
    running = finished(long_ago, State.RUNNING)
    DispatchRecord.objects.update(finished_at=None)
    assert sum(retention.keep_house(now, of_former_queues=True)) == 0
    assert left() == {waiting.pk, running.pk}


def test_everything_that_belongs_to_a_dispatch_is_deleted_with_it(now: datetime) -> None:
    old, young = finished(now - 8 * DAY), finished(now)
    for record in (old, young):
        stored(record)
        ActionRecord.objects.create(dispatch=record, at=now, action="retry", actor="ann")
        AttemptRecord.objects.create(dispatch=record, number=1, started_at=now, ended_at=now, error="lost")
    assert sum(retention.keep_house(now)) == 1
    for model in (ActionRecord, AttemptRecord):
        assert set(model.objects.values_list("dispatch", flat=True)) == {young.pk}
    assert set(TaskResult.objects.values_list("task_id", flat=True)) == {str(young.pk)}


def test_a_protected_dispatch_does_not_block_other_queues(
    now: datetime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def protect(instance: DispatchRecord, **_: Any) -> None:
        if instance.queue == "payment":
            raise ProtectedError("an order refers to it", {instance})

    monkeypatch.setattr(retention, "_has_relations", lambda: True)
    kept, _old = finished(now - 100 * DAY, queue="payment"), finished(now - 100 * DAY)
    pre_delete.connect(protect, sender=DispatchRecord)
    try:
        assert sum(retention.keep_house(now)) == 1
    finally:
        pre_delete.disconnect(protect, sender=DispatchRecord)
    assert left() == {kept.pk}
    assert "cannot be deleted: ProtectedError" in caplog.text


def test_nothing_is_written_if_nothing_is_old(now: datetime) -> None:
    for state in retention.DONE:
        finished(now, state)
    with CaptureQueriesContext(connection) as queries:
        assert sum(retention.keep_house(now)) == 0
    assert {query["sql"].split()[0] for query in queries} == {"SELECT"}


def test_the_retention_of_a_revived_dispatch_starts_again(now: datetime) -> None:
    record = finished(now - 40 * DAY, State.FAILED)
    assert ledger.revive(record.pk, "ann", now)
    assert sum(retention.keep_house(now)) == 0
    DispatchRecord.objects.update(state=State.FAILED, finished_at=now, due_at=None)
    assert sum(retention.keep_house(now + 29 * DAY)) == 0
    assert sum(retention.keep_house(now + 31 * DAY)) == 1


def test_dispatches_of_former_queues_are_deleted_on_request(now: datetime) -> None:
    for queue in ("alpha", "former", "zulu"):
        finished(now - 8 * DAY, queue=queue)
    kept = finished(now, queue="former")
    assert sum(retention.keep_house(now)) == 0
    assert sum(retention.keep_house(now, of_former_queues=True)) == 3
    assert left() == {kept.pk}


def test_a_response_is_dropped_when_it_is_due(now: datetime) -> None:
    due, later = finished(now, due_at=now), finished(now, due_at=now + DAY)
    stored(due)
    stored(later)
    assert sum(retention.keep_house(now)) == 0
    assert TaskResult.objects.get().task_id == str(later.pk)
    due.refresh_from_db()
    assert due.due_at is None


def test_due_responses_are_dropped_in_chunks(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "CHUNK", 2)
    for state in (State.SUCCEEDED, State.SUCCEEDED, State.SUCCEEDED, State.FAILED):
        finished(now, state, due_at=now)
    assert list(retention.keep_house(now)) == [0]
    assert not DispatchRecord.objects.exclude(due_at=None).exists()


def test_a_kept_response_is_stored_later(now: datetime) -> None:
    record = finished(now, due_at=now, kept_response=b"sealed", response_status=200)
    assert sum(retention.keep_house(now)) == 0
    record.refresh_from_db()
    assert record.kept_response is None and record.due_at != now
    assert get_app().backend.get_task_meta(str(record.pk))["result"]["sealed"] == "sealed"


def test_a_kept_response_stays_while_the_result_store_refuses_it(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "store", lambda *_: False)
    record = finished(now, due_at=now, kept_response=b"sealed", response_status=200)
    assert sum(retention.keep_house(now)) == 0
    record.refresh_from_db()
    assert bytes(record.kept_response or b"") == b"sealed"


def test_a_response_that_is_always_refused_does_not_block_others(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"due_at": now, "kept_response": b"sealed", "response_status": 200}
    large, small = finished(now, **kept, response_size=10**9), finished(now, **{**kept, "due_at": now + DAY / 1000})
    store = results.store
    monkeypatch.setattr(results, "store", lambda pk, result: result["size"] < 10**9 and store(pk, result))
    for minutes in (0, 2, 2.5):
        list(retention.keep_house(now + timedelta(minutes=minutes)))
    assert set(DispatchRecord.objects.exclude(kept_response=None).values_list("pk", flat=True)) == {large.pk}
    assert get_app().backend.get_task_meta(str(small.pk))["result"]["sealed"] == "sealed"
