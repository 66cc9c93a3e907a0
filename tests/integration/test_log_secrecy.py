"""Errors are logged without the client's data, passwords or tokens."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery.backends.redis import RedisBackend
from django.db import OperationalError
from django.test import Client, override_settings
from django.urls import NoReverseMatch

from broker_core.policies import QueuePolicy
from broker_django.ledger import ledger, tokens
from broker_django.messaging import publishing
from broker_django.messaging.celery_app import get_app
from broker_django.models import DispatchRecord
from tests.rows import as_request
from workers import tasks
from workers.recovery.reaper import Reaper, _run_pass

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "xK7secret4111"
ROOMS = ("broker_core", "broker_django", "workers")


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All that the broker logs, down to debug; after the test, no record has the mark in it."""
    with caplog.at_level(logging.DEBUG):
        yield caplog
    ours = [record for record in caplog.get_records("call") if record.name.startswith(ROOMS)]
    assert ours, "the test has to make the broker log something"
    for record in ours:
        assert MARK not in logging.Formatter().format(record), record
        assert MARK not in repr(vars(record)), record


def send(path: str = "/pay/", **headers: str) -> Any:
    client = Client(raise_request_exception=False)
    client.cookies["card"] = MARK
    fields = {"Authorization": f"Bearer {MARK}", "X-Card": MARK, **headers}
    return client.post(f"{path}?card={MARK}", {"amount": MARK}, headers=fields)


def away(*_args: object, **_options: object) -> Any:
    raise OperationalError(f'connection to "postgres://user:{MARK}@host/db" failed\nDETAIL: row ({MARK})')


def test_a_condition_that_fails() -> None:
    rules = [
        {"when": f'{what}(request.headers["x-card"]) > {what}("{least}")', "queue": "bulk"}
        for what, least in (("duration", "1h"), ("int", "1"))
    ]
    rules.append({"when": "{'a': 1}[request.headers['x-card']] == 1", "queue": "bulk"})
    with override_settings(REQUEST_BROKER={"RULES": rules}):
        send("/echo/")


@pytest.mark.parametrize("on_outage", ["refuse", "run_now"])
def test_an_unavailable_ledger(monkeypatch: pytest.MonkeyPatch, on_outage: str) -> None:
    monkeypatch.setattr(ledger, "accept", away)
    rules = [{"when": "true", "queue": "bulk"}]
    with override_settings(REQUEST_BROKER={"QUEUES": {"bulk": {"on_outage": on_outage}}, "RULES": rules}):
        send(f"/echo/{MARK}/")


def test_a_request_that_cannot_be_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_args: object) -> str:
        raise NoReverseMatch(f"Reverse for 'task' with arguments '('{MARK}',)' not found.")

    monkeypatch.setattr(tokens, "status_url", nowhere)
    send()


@pytest.mark.parametrize("error", [ValueError(MARK), OSError(f"redis://:{MARK}@host is away")])
def test_an_unavailable_message_broker(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(publishing, "_send", fail)
    try:
        assert not publishing.publish(as_request(DispatchRecord(queue="bulk")), QueuePolicy())
    finally:
        publishing.breaker.succeeded()


def test_an_unavailable_result_store(monkeypatch: pytest.MonkeyPatch) -> None:
    location, url = send()["Location"], f"redis://:{MARK}@127.0.0.1:1/0"
    monkeypatch.setattr(get_app()._local, "backend", RedisBackend(app=get_app(), url=url))
    assert Client().get(f"{location}response/", headers={"Authorization": f"Bearer {MARK}"}).status_code == 503


def test_an_outcome_that_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "conclude", away)
    send()


@pytest.mark.django_db(transaction=True)  # a reaper's connection is in none
def test_a_reaper_that_fails(monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> None:
    def stumble(_self: object) -> Any:
        raise ValueError(MARK)

    monkeypatch.setattr(Reaper, "run_pass", stumble)
    _run_pass(Reaper(), threading.Event())
    assert "The reaper failed: ValueError" in log.text
    assert "in stumble" in log.text


def test_a_forged_id_cannot_add_a_log_line(log: pytest.LogCaptureFixture) -> None:
    tasks.replay.apply(args=(MARK,), task_id="1\nERROR all is lost", routing_key="payment", throw=False)
    refused = next(record for record in log.records if record.name == "workers.tasks")
    assert len(refused.getMessage().splitlines()) == 1
