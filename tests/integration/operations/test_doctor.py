from __future__ import annotations

import io
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError
from django.test import override_settings
from django.utils import timezone
from kombu import Connection

from broker_core.dispatches import NOT_REACHED, State
from broker_core.envelope import Keyring
from broker_django.conf import conf
from broker_django.messaging.celery_app import get_app
from broker_django.models import DispatchRecord
from broker_django.operations import doctor

HOST = "broker@host"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message broker that answers, without a server."""
    app = get_app()
    monkeypatch.setattr(app, "connection_for_write", lambda *_, **__: Connection("memory://"))


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    replies = {HOST: {"queues": ["payment", "realtime", "bulk"], "skew": 0.0}}
    monkeypatch.setattr(doctor, "_ask_workers", lambda _app: replies)
    return replies


def findings() -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.examine()}


def wrong() -> dict[str, doctor.Finding]:
    return {subject: finding for subject, finding in findings().items() if not finding.well}


def add(state: State, **values: Any) -> DispatchRecord:
    values = {"accepted_at": timezone.now(), "queue": "bulk", "sealed": b"", **values}
    return DispatchRecord.objects.create(id=uuid.uuid4(), state=state, **values)


def run_doctor() -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("broker_doctor", stdout=out, stderr=out, no_color=True)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_a_healthy_installation_has_no_findings(memory: None, workers: dict[str, Any]) -> None:
    add(State.QUEUED)
    add(State.RUNNING, due_at=timezone.now() + timedelta(seconds=5))
    add(State.SUCCEEDED, due_at=None)
    status, output = run_doctor()
    assert status == 0, output
    assert "Everything is well." in output
    for subject in ("ledger", "message broker", "result store", "queue payment", f"clock of {HOST}"):
        assert f"ok   {subject}: " in output


def test_a_queue_without_a_worker_is_reported(memory: None, workers: dict[str, Any]) -> None:
    workers[HOST]["queues"].remove("bulk")
    status, output = run_doctor()
    assert status == 1
    assert "FAIL queue bulk: no worker serves it" in output
    assert "broker_worker --queues bulk" in output
    assert "1 of the above need attention." in output


def test_advice_for_several_queues_is_given_once(memory: None, workers: dict[str, Any]) -> None:
    workers.clear()
    _status, output = run_doctor()
    assert output.count("no worker serves it") == 3
    assert output.count("Start one") == 1
    assert "broker_worker --queues payment,realtime,bulk" in output


@pytest.mark.parametrize(("debug", "told"), [(True, True), (False, False)])
def test_a_developer_is_told_about_the_message_broker_of_broker_dev(settings: Any, debug: bool, told: bool) -> None:
    settings.DEBUG = debug
    assert ("export CELERY_BROKER_URL" in wrong()["message broker"].advice) is told


@pytest.mark.parametrize(("skew", "well"), [(2.0, True), (-2.0, True), (2.1, False), (-2.1, False)])
def test_a_wrong_clock_is_reported(memory: None, workers: dict[str, Any], skew: float, well: bool) -> None:
    workers[HOST]["skew"] = skew
    assert findings()[f"clock of {HOST}"].well is well


def test_an_unreachable_message_broker_is_reported_with_its_backlog() -> None:
    add(State.QUEUED, accepted_at=timezone.now() - timedelta(minutes=5))
    found = wrong()
    assert "Start it, or correct CELERY_BROKER_URL" in found["message broker"].advice
    assert "1 dispatch waits, the oldest for 300 s: the message broker is down" in found["backlog of bulk"].detail
    assert {"queue payment", "queue realtime", "queue bulk"} <= set(found)


def test_dispatches_that_wait_for_a_worker_are_reported(memory: None, workers: dict[str, Any]) -> None:
    add(State.QUEUED, accepted_at=timezone.now() - timedelta(minutes=5))
    assert "no worker has started them" in wrong()["backlog of bulk"].detail


def test_waiting_for_a_retry_is_not_reported(memory: None, workers: dict[str, Any]) -> None:
    long_ago, soon = timezone.now() - timedelta(minutes=5), timezone.now() + timedelta(minutes=1)
    record = add(State.QUEUED, accepted_at=long_ago, due_at=soon, attempts=1)
    record.ended_attempts.create(number=1, started_at=long_ago, ended_at=long_ago, error="the view answered 503")
    assert not wrong()


def test_dispatches_that_workers_handed_back_are_reported(memory: None, workers: dict[str, Any]) -> None:
    error = f"{NOT_REACHED}: the URL leads nowhere here, and led to shop.views.pay when it was accepted"
    now = timezone.now()
    for _ in range(2):
        record = add(State.QUEUED, due_at=now + timedelta(seconds=8), attempts=3, attempts_before=3)
        for number in (1, 2, 3):
            record.ended_attempts.create(number=number, started_at=now, ended_at=now, error=error)
    (finding,) = wrong().values()
    assert finding.subject == "handed back to bulk"
    assert finding.detail.startswith("2 dispatches wait")
    assert error in finding.detail
    assert "code and settings of the web processes" in finding.advice


def test_workers_with_another_key_are_not_reported_as_missing(memory: None, workers: dict[str, Any]) -> None:
    workers[HOST]["keys"] = ["another"]
    found = wrong()
    assert found["queue bulk"].advice == "Its workers have different keys: see below."
    assert "SECRET_KEY of the web processes" in found[f"keys of {HOST}"].advice


def test_dispatches_of_a_lost_worker_are_reported(memory: None, workers: dict[str, Any]) -> None:
    for _ in range(2):
        add(State.RUNNING, worker="broker@gone", due_at=timezone.now() - timedelta(seconds=60))
    (finding,) = wrong().values()
    assert finding.subject == "dispatches of broker@gone"
    assert "2 count as running, 60 s past their lease: the worker is gone" in finding.detail


def test_a_failing_result_store_is_reported(
    memory: None, workers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise DatabaseError("no such table")

    monkeypatch.setattr(type(get_app().backend), "store_result", fail)
    assert "DatabaseError: no such table" in wrong()["result store"].detail


def test_a_full_queue_is_reported(memory: None, workers: dict[str, Any]) -> None:
    with override_settings(REQUEST_BROKER={"QUEUES": {"bulk": {"max_depth": 2}}}):
        add(State.QUEUED)
        assert not wrong()
        add(State.QUEUED)
        assert "2 dispatches wait, the oldest for 0 s, so new requests are refused" in wrong()["limit of bulk"].detail


def with_slots(**values: Any) -> dict[str, Any]:
    """Returns the status of a worker with two slots, one of them free."""
    status = {"slots": 2, "active": 1, "lost": 0, "begun": 7, "keys": conf.keyring.key_ids}
    running = [{"id": "1-2", "name": "POST /pay/ (payment)", "seconds": 61.2}]
    return {**status, "running": running, "answered_in": 0.03, **values}


@pytest.mark.parametrize(
    ("values", "well", "detail"),
    [
        ({}, True, "ran a probe in 30 ms, 1 of 2 slots are busy"),
        ({"active": 2, "answered_in": 0.0}, True, "busy: 2 of 2 slots run POST /pay/ (payment) (1-2) for 61 s"),
        ({"answered_in": None}, False, "it answers, but ran no task within 5 s though 1 of 2 slots are free"),
        ({"lost": 1}, False, "1 of 2 slots are lost"),
    ],
)
def test_a_worker_that_does_not_consume_is_reported(
    memory: None, workers: dict[str, Any], values: dict[str, Any], well: bool, detail: str
) -> None:
    workers[HOST].update(with_slots(**values))
    finding = findings()[f"worker {HOST}"]
    assert finding.well is well
    assert detail in finding.detail


OURS = ["new", "old"]


@pytest.mark.parametrize(
    ("theirs", "detail"),
    [
        (["new", "old"], "the same"),
        (["old", "new"], "the same"),
        (["other"], "another project, or another SECRET_KEY"),
        (["old"], f"not all keys are known: {HOST} cannot open"),
        (["newest", "new", "old"], "not all keys are known: this process cannot open"),
        (["new"], "not all keys are known on both sides"),
    ],
)
def test_keys_of_web_and_workers_are_compared(
    memory: None, workers: dict[str, Any], theirs: list[str], detail: str
) -> None:
    with override_settings(SECRET_KEY=OURS[0], SECRET_KEY_FALLBACKS=OURS[1:]):
        workers[HOST]["keys"] = [Keyring([secret]).key_ids[0] for secret in theirs]
        finding = findings()[f"keys of {HOST}"]
    assert detail in finding.detail
    assert finding.well is (detail == "the same")


def test_a_worker_of_another_project_serves_nothing(memory: None, workers: dict[str, Any]) -> None:
    workers[HOST]["keys"] = Keyring(["other"]).key_ids
    assert "no worker serves it" in wrong()["queue bulk"].detail


def test_dispatches_in_a_queue_that_was_removed_are_reported(memory: None, workers: dict[str, Any]) -> None:
    add(State.QUEUED, queue="former", accepted_at=timezone.now() - timedelta(minutes=5))
    (finding,) = wrong().values()
    assert "the queue is no longer in the settings" in finding.detail
    assert "Put 'former' back into QUEUES" in finding.advice


def test_a_worker_that_runs_a_task_and_does_not_answer_is_busy(memory: None, workers: dict[str, Any]) -> None:
    workers[HOST]["queues"].remove("bulk")
    add(State.RUNNING, worker="solo@host", due_at=timezone.now() + timedelta(seconds=9))
    assert not wrong()
    assert "it does not answer, but renews leases of dispatches in bulk" in findings()["worker solo@host"].detail
