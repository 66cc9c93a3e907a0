from __future__ import annotations

import threading
import uuid
from types import SimpleNamespace

import pytest
from celery.exceptions import Reject
from django.db import DataError, InternalError

from workers import tasks
from workers.replaying import outcomes
from workers.replaying.outcomes import (
    LateOutcomes,
    LedgerSilentError,
    persistently,
    seconds_left,
    seconds_to_soft_limit,
)


@pytest.fixture(autouse=True)
def quick(settings, monkeypatch):
    settings.REQUEST_BROKER = {"LEASE": 0.2}
    monkeypatch.setattr("workers.databases.connections.replace_all", lambda: None)


def failing(times, error):
    calls = []

    def tell():
        calls.append(error)
        if len(calls) <= times:
            raise error
        return len(calls)

    return tell


def test_a_statement_is_tried_until_the_ledger_accepts_it():
    assert persistently(failing(3, InternalError("read-only")), "id", 30) == 4


def test_a_statement_is_given_up_after_the_deadline():
    with pytest.raises(LedgerSilentError):
        persistently(failing(9, InternalError("read-only")), "id", 0)


def test_errors_in_the_data_are_raised_at_once():
    tell = failing(9, DataError("too long"))
    with pytest.raises(DataError):
        persistently(tell, "id", 30)


@pytest.mark.parametrize(
    ("limits", "before", "after"), [((310, 300), 297, 307), ((11, 1), 0, 8), ((None, None), 120, 120)]
)
def test_a_task_does_not_wait_longer_than_its_limits_allow(limits, before, after):
    request = SimpleNamespace(timelimit=limits, called_directly=False)
    assert seconds_to_soft_limit(request) == before
    assert seconds_left(request) == pytest.approx(after, abs=0.5)


def test_a_message_that_returns_to_its_queue_is_not_read_again_at_once(monkeypatch):
    paused = []
    monkeypatch.setattr(tasks.time, "sleep", paused.append)
    request = SimpleNamespace(timelimit=(11, 1), is_eager=False)
    with pytest.raises(Reject) as raised:
        tasks._ask_ledger(request, failing(9, InternalError("read-only")), uuid.uuid4())
    assert raised.value.requeue
    assert paused == [outcomes.longest_pause()]


def test_a_process_waits_for_late_outcomes_before_it_ends():
    late, gate, recorded = LateOutcomes(), threading.Event(), []
    begin = threading.Barrier(8)

    def tell(number):
        gate.wait(30)
        recorded.append(number)

    def hand_over(number):
        begin.wait(30)
        late.record(str(number), lambda: tell(number))

    threads = [threading.Thread(target=hand_over, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gate.set()
    late.wait(30)
    assert sorted(recorded) == list(range(8))
