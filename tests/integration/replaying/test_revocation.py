"""Revoked messages that a worker holds, one by one; `test_revoking` uses real workers."""

from __future__ import annotations

import logging
import time
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.concurrency.prefork import TaskPool as Processes
from celery.concurrency.thread import TaskPool as Threads
from celery.exceptions import TaskRevokedError, Terminated
from celery.worker import control, state
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from broker_core.dispatches import Outcome
from broker_core.dispatches.events import Event, Kind
from broker_core.errors import DispatchConflictError
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import TASK, get_app
from broker_django.models import DispatchRecord
from tests.rows import accept
from workers import inspection  # noqa: F401 - as a worker loads it
from workers.replaying import revocation
from workers.replaying.celery_request import ReplayRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTNAME = "worker@here"


@pytest.fixture(autouse=True)
def nothing_revoked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clear the revoked ids, which workers keep for hours. No process is forked here, so connections may stay."""
    monkeypatch.setattr("workers.replaying.revocation.connections", SimpleNamespace(close_all=lambda: None))
    monkeypatch.setattr("workers.replaying.celery_request.connections", SimpleNamespace(close_all=lambda: None))
    yield
    state.reset_state()


@pytest.fixture
def record() -> DispatchRecord:
    now = timezone.now()
    record = DispatchRecord(queue="bulk", method="GET", path="/", accepted_at=now, published_at=now, sealed=b"sealed")
    accept(record)
    return record


class Held(ReplayRequest):
    acknowledgements = 0

    def acknowledge(self) -> None:
        self.acknowledgements += 1


def held(record: DispatchRecord, **headers: Any) -> Held:
    """Returns the request of a message that a worker has received."""
    app = get_app()
    app.loader.import_default_modules()
    sent = app.amqp.create_task_message(str(record.pk), TASK, args=("sealed",), kwargs={}, ignore_result=True)
    message = SimpleNamespace(
        headers={**sent.headers, **headers},
        body=sent.body,
        payload=sent.body,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={"routing_key": "bulk"},
        properties={"correlation_id": str(record.pk)},
    )
    request = Held(message, app=app, hostname=HOSTNAME, task=app.tasks[TASK], decoded=True)
    state.task_reserved(request)
    return request


def begin(record: DispatchRecord, request: Held) -> None:
    """Let its view begin."""
    request.time_start = time.time() - 1
    state.task_accepted(request)
    assert ledger.claim(record.pk, conf.queues["bulk"], HOSTNAME)


def now_is(record: DispatchRecord) -> str:
    record.refresh_from_db()
    return record.state


class Pool(Processes):
    """Records the process that it is asked to stop."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, str]] = []

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        self.ended.append((pid, DispatchRecord.objects.get().state))


class NoPool(Threads):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("headers", "revoke"),
    [
        ({}, state.revoked.add),
        ({"eta": "2026-01-01T00:00:00+00:00"}, state.revoked.add),
        ({"stamped_headers": ["team"], "stamps": {"team": "a"}}, lambda pk: state.revoked_stamps.update(team=["a"])),
        ({"expires": "2026-01-01T00:00:00+00:00"}, lambda pk: None),
    ],
    ids=["reserved", "eta", "stamps", "expires"],
)
def test_a_revoked_message_cancels_its_dispatch(record: DispatchRecord, headers: dict[str, Any], revoke: Any) -> None:
    request = held(record, **headers)
    revoke(str(record.pk))
    with pytest.raises(TaskRevokedError):
        request.execute_using_pool(Pool())
    assert now_is(record) == "cancelled"
    assert request.acknowledgements == 1


def test_a_revoked_second_message_does_not_affect_an_attempt_elsewhere(record: DispatchRecord) -> None:
    request = held(record)
    assert ledger.claim(record.pk, conf.queues["bulk"], "worker@elsewhere")
    state.revoked.add(str(record.pk))
    assert request.revoked()
    assert now_is(record) == "running"


def test_the_ledger_is_updated_before_the_process_is_stopped(record: DispatchRecord) -> None:
    request, pool = held(record), Pool()
    begin(record, request)
    request.worker_pid = 7
    request.terminate(pool, "TERM")
    assert pool.ended == [(7, "cancelled")]
    assert now_is(record) == "cancelled"
    request.on_failure(SimpleNamespace(exception=Terminated(15), exc_info=None, traceback=""))
    assert (now_is(record), record.attempts) == ("cancelled", 1)


def test_an_attempt_that_is_about_to_begin_is_cancelled_too(record: DispatchRecord) -> None:
    request, pool = held(record), Pool()
    request.terminate(pool, "TERM")
    assert now_is(record) == "cancelled"
    assert not ledger.claim(record.pk, conf.queues["bulk"], HOSTNAME)


def test_an_attempt_claimed_during_the_cancellation_is_stopped(
    record: DispatchRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, cancel = held(record), ledger.cancel
    request.time_start = time.time() - 1

    def overtaken(dispatch_id: uuid.UUID) -> bool:
        ledger.claim(dispatch_id, conf.queues["bulk"], HOSTNAME)
        return cancel(dispatch_id)

    monkeypatch.setattr(ledger, "cancel", overtaken)
    request.terminate(Pool(), "TERM")
    assert now_is(record) == "cancelled"


def test_a_pool_that_cannot_stop_a_task_lets_it_run(record: DispatchRecord) -> None:
    request = held(record)
    begin(record, request)
    with pytest.raises(NotImplementedError):
        request.terminate(NoPool(), "TERM")
    assert now_is(record) == "running"


def test_a_pool_that_cannot_stop_a_task_does_not_begin_a_revoked_one(record: DispatchRecord) -> None:
    request = held(record)
    request.terminate(NoPool(), "TERM")
    assert now_is(record) == "cancelled"
    request.on_accepted(7, time.monotonic())


def test_a_process_that_ended_by_itself_leaves_the_dispatch_to_another_attempt(record: DispatchRecord) -> None:
    request = held(record)
    begin(record, request)
    request.on_failure(SimpleNamespace(exception=Terminated(15), exc_info=None, traceback=""))
    assert (now_is(record), record.attempts) == ("queued", 1)


@pytest.mark.django_db(transaction=True)
def test_an_unavailable_ledger_does_not_block_celery(record: DispatchRecord, caplog: pytest.LogCaptureFixture) -> None:
    request = held(record)
    state.revoked.add(str(record.pk))

    def refuse(*_args: Any) -> Any:
        raise OperationalError("the disk is full")

    with connection.execute_wrapper(refuse), caplog.at_level(logging.ERROR, "workers.replaying.revocation"):
        assert request.revoked()
        revocation.cancel_waiting([str(record.pk)])
    assert request.acknowledgements == 1
    assert len([each for each in caplog.records if "cannot be cancelled now" in each.message]) == 2
    assert now_is(record) == "queued", "the reaper misses the message"
    assert held(record).revoked()
    assert now_is(record) == "cancelled"


@pytest.mark.parametrize("name", ["revoke", "terminate"])
def test_celerys_revoke_commands_cancel_waiting_dispatches(name: str, record: DispatchRecord) -> None:
    again = DispatchRecord(queue="bulk", method="GET", path="/", accepted_at=timezone.now(), sealed=b"sealed")
    again.due_at, again.attempts = timezone.now() + timedelta(hours=1), 1
    accept(again)
    consumer = SimpleNamespace(consumer=SimpleNamespace(pool=Pool()), app=get_app(), hostname=HOSTNAME)
    signal = {"signal": "TERM"} if name == "terminate" else {}
    ids = [str(record.pk), str(again.pk), str(uuid.uuid4()), "no-id"]
    answer = control.Panel.data[name](consumer, task_id=ids, **signal)
    assert "ok" in answer
    assert (now_is(record), now_is(again)) == ("cancelled", "cancelled")
    assert ids[2] in state.revoked, "Celery's own does what it always did"
    assert "ok" in control.Panel.data[name](consumer, task_id=ids[3], **signal)


@pytest.fixture
def cancelled() -> Iterator[list[uuid.UUID]]:
    """Returns the dispatches for which the ledger sent `cancelled`."""
    ids: list[uuid.UUID] = []

    def hear(event: Event) -> None:
        if event.kind is Kind.CANCELLED:
            ids.append(event.dispatch_id)

    ledger.events.subscribe(hear)
    yield ids
    ledger.events.unsubscribe(hear)


def test_many_are_cancelled_by_few_statements_and_each_is_announced(
    cancelled: list[uuid.UUID], django_capture_on_commit_callbacks: Any
) -> None:
    now = timezone.now()
    rows = [DispatchRecord(queue="bulk", path="/", accepted_at=now, published_at=now, sealed=b"") for _ in range(40)]
    DispatchRecord.objects.bulk_create(rows)
    ids = [row.pk for row in rows]
    assert ledger.claim(ids[0], conf.queues["bulk"], HOSTNAME)
    ledger.cancel(ids[1])
    with CaptureQueriesContext(connection) as queries, django_capture_on_commit_callbacks(execute=True):
        revocation.cancel_waiting(map(str, ids))
        revocation.cancel_waiting(map(str, ids))
    assert sorted(cancelled) == sorted(ids[2:])
    assert [now_is(row) for row in rows] == ["running"] + 39 * ["cancelled"]
    assert len([each for each in queries if each["sql"].startswith("UPDATE")]) == 1


def test_dispatches_claimed_or_cancelled_meanwhile_are_not_announced(
    record: DispatchRecord, cancelled: list[uuid.UUID], django_capture_on_commit_callbacks: Any
) -> None:
    now = timezone.now()
    others = [DispatchRecord(queue="bulk", path="/", accepted_at=now, published_at=now, sealed=b"") for _ in range(2)]
    DispatchRecord.objects.bulk_create(others)

    def overtake(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("UPDATE") and others:
            claimed, withdrawn = others.pop(), others.pop()
            assert ledger.claim(claimed.pk, conf.queues["bulk"], HOSTNAME)
            ledger.cancel(withdrawn.pk)
        return execute(sql, *rest)

    ids = [str(row.pk) for row in (record, *others)]
    with connection.execute_wrapper(overtake), django_capture_on_commit_callbacks(execute=True):
        revocation.cancel_waiting(ids)
    assert cancelled.count(record.pk) == 1
    assert len(cancelled) == 2, "the other one is who else has cancelled"


def test_finished_dispatches_are_not_changed(record: DispatchRecord) -> None:
    request = held(record)
    begin(record, request)
    assert ledger.conclude(record.pk, 1, conf.queues["bulk"], Outcome(200))
    with pytest.raises(DispatchConflictError):
        ledger.cancel(record.pk)
    request.terminate(Pool(), "TERM")
    assert now_is(record) == "succeeded"
    assert datetime.now(UTC) > record.finished_at
