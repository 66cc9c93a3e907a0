"""The reaper, pass by pass, with a fake clock and an in-memory message broker."""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.test import override_settings
from django.utils import timezone

from broker_core.dispatches import Run, SealedRequest, State
from broker_core.message import RequestMessage, ResponseMessage
from broker_django.conf import conf
from broker_django.ledger import ledger, retention
from broker_django.messaging import publishing, sealing
from broker_django.models import ActionRecord, AttemptRecord, DispatchRecord
from chaos.verdict import HAND_BACK, LOSS, RETRY, mentions
from tests.rows import accept, as_dispatch
from workers import tasks
from workers.recovery import reaper as module
from workers.recovery.reaper import Reaper
from workers.replaying.celery_request import ReplayRequest
from workers.replaying.replay import Answer

if TYPE_CHECKING:
    import re

pytestmark = pytest.mark.django_db

LATE = timedelta(seconds=30)


class Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def passes(self, **duration: float) -> datetime:
        self.now += timedelta(**duration)
        return self.now


class Wire:
    """Records what a reaper publishes, and reports queue lengths."""

    def __init__(self) -> None:
        self.published: list[uuid.UUID] = []
        self.takes = True
        self.waiting: int | dict[str, int] | None = 0
        """How many messages wait in each queue."""

    def publish(self, request: SealedRequest, _policy: Any) -> bool:
        dispatch = request.dispatch
        if not self.takes:
            publishing.breaker.failed()
            return False
        self.published.append(dispatch.id)
        if isinstance(self.waiting, dict):
            self.waiting[dispatch.queue] = self.waiting.get(dispatch.queue, 0) + 1
        return True

    def waiting_messages(self, policy: Any) -> int | None:
        return self.waiting.get(policy.celery_queue, 0) if isinstance(self.waiting, dict) else self.waiting


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2030, 5, 17, 12, tzinfo=UTC))


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(module, "publish", wire.publish)
    monkeypatch.setattr(module, "waiting_messages", wire.waiting_messages)
    monkeypatch.setattr(module, "latest_published", {})
    return wire


@pytest.fixture
def steady(clock: Clock, wire: Wire) -> Reaper:
    """A reaper that has seen the database answer for long enough."""
    reaper = Reaper(clock)
    run_pass(reaper)
    for _ in range(3):
        clock.passes(seconds=10)
        run_pass(reaper)
    return reaper


def run_pass(reaper: Reaper) -> None:
    for _step in reaper.run_pass():
        pass


def accepted(now: datetime, **values: Any) -> DispatchRecord:
    record = DispatchRecord(id=uuid.uuid4(), queue="bulk", method="GET", path="/", route="/", accepted_at=now)
    record.published_at = now
    for name, value in values.items():
        setattr(record, name, value)
    message = RequestMessage({"REQUEST_METHOD": "GET", "PATH_INFO": "/"})
    record.sealed = sealing.seal_request(message, str(record.pk), record.queue)
    accept(record)
    return record


def state(record: DispatchRecord) -> str:
    return DispatchRecord.objects.values_list("state", flat=True).get(pk=record.pk)


def test_a_waiting_dispatch_is_published_when_it_is_due(steady: Reaper, clock: Clock, wire: Wire) -> None:
    due, later = (accepted(clock.now, published_at=None, due_at=clock.now + timedelta(seconds=s)) for s in (0, 60))
    run_pass(steady)
    assert wire.published == [due.pk]
    due.refresh_from_db()
    assert (due.due_at, due.published_at) == (None, clock.now)
    clock.passes(seconds=60)
    run_pass(steady)
    assert later.pk in wire.published


def test_a_dispatch_that_the_message_broker_refuses_waits(steady: Reaper, clock: Clock, wire: Wire) -> None:
    records = [accepted(clock.now, published_at=None, due_at=clock.now) for _ in range(3)]
    wire.takes = False
    run_pass(steady)
    assert {(row.due_at is None, row.published_at) for row in DispatchRecord.objects.all()} == {(False, None)}
    wire.takes = True
    publishing.breaker.succeeded()
    clock.passes(seconds=5)
    run_pass(steady)
    assert set(wire.published) == {record.pk for record in records}


def test_a_dispatch_whose_lease_expired_is_published_again(steady: Reaper, clock: Clock, wire: Wire) -> None:
    record = accepted(clock.now)
    ledger.claim(record.pk, module.conf.queues["bulk"], "gone", clock.now)
    clock.passes(seconds=10)
    run_pass(steady)
    assert state(record) == State.RUNNING
    for _ in range(2):
        clock.passes(seconds=10)
        run_pass(steady)
    assert wire.published == [record.pk]
    assert AttemptRecord.objects.get().error == "the lease of its worker ran out"


def test_after_a_database_outage_workers_may_renew_first(steady: Reaper, clock: Clock, wire: Wire) -> None:
    record = accepted(clock.now)
    ledger.claim(record.pk, module.conf.queues["bulk"], "slow", clock.now)
    clock.passes(seconds=40)
    steady.record_failure()
    run_pass(steady)
    clock.passes(seconds=10)
    run_pass(steady)
    assert state(record) == State.RUNNING, "it has not been half a lease"
    clock.passes(seconds=10)
    run_pass(steady)
    assert state(record) == State.QUEUED


def test_a_reaper_that_slept_lets_workers_renew_first(steady: Reaper, clock: Clock) -> None:
    record = accepted(clock.now)
    ledger.claim(record.pk, module.conf.queues["bulk"], "slow", clock.now)
    clock.passes(hours=1)
    run_pass(steady)
    assert state(record) == State.RUNNING


def test_a_message_is_lost_if_its_queue_is_empty(steady: Reaper, clock: Clock, wire: Wire) -> None:
    lost = accepted(clock.now)
    clock.passes(seconds=20)
    recent = accepted(clock.now)
    clock.passes(seconds=12)
    run_pass(steady)
    assert wire.published == [lost.pk]
    assert recent.pk not in wire.published


def test_a_message_is_lost_if_later_ones_have_left_the_queue(
    steady: Reaper, clock: Clock, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.waiting = 1_000
    first, second = accepted(clock.now), accepted(clock.passes(seconds=100))
    clock.passes(seconds=100)
    run_pass(steady)
    assert wire.published == [], "both may wait in the queue"
    monkeypatch.setattr(module, "latest_published", {"bulk": (second.accepted_at - timedelta(seconds=1)).timestamp()})
    clock.passes(seconds=15)
    run_pass(steady)
    assert wire.published == [first.pk]


def test_no_message_counts_as_lost_if_the_queue_is_unknown(steady: Reaper, clock: Clock, wire: Wire) -> None:
    wire.waiting = None
    accepted(clock.now)
    clock.passes(hours=1)
    run_pass(steady)
    assert wire.published == []


def test_an_expired_dispatch_is_not_published(steady: Reaper, clock: Clock, wire: Wire) -> None:
    end = clock.now + timedelta(seconds=5)
    on_its_way = accepted(clock.now, expires_at=end)
    waiting = accepted(clock.now, expires_at=end, published_at=None, due_at=end)
    clock.passes(seconds=15)
    run_pass(steady)
    assert [state(on_its_way), state(waiting)] == [State.EXPIRED, State.EXPIRED]
    assert wire.published == []


def test_two_reapers_publish_once(steady: Reaper, clock: Clock, wire: Wire) -> None:
    record = accepted(clock.now, published_at=None, due_at=clock.now)
    seen = as_dispatch(record)
    run_pass(steady)
    assert ledger.mark_published(seen, clock.now) is None, "the other one is late"
    run_pass(Reaper(clock))
    assert wire.published == [record.pk]


def test_a_former_queue_does_not_block_others(steady: Reaper, clock: Clock, wire: Wire) -> None:
    former = accepted(clock.now, queue="former", published_at=None, due_at=clock.now)
    record = accepted(clock.now, published_at=None, due_at=clock.now)
    run_pass(steady)
    assert wire.published == [record.pk]
    former.refresh_from_db()
    assert former.due_at == clock.now + module.OTHER_WORKER_DELAY


def test_a_pass_is_limited_in_time(steady: Reaper, clock: Clock, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "A_WHILE", -1.0)
    for _ in range(5):
        accepted(clock.now, published_at=None, due_at=clock.now)
    run_pass(steady)
    assert len(wire.published) == 1


def test_housekeeping_continues_in_the_next_pass(
    steady: Reaper, clock: Clock, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "A_WHILE", -1.0)
    monkeypatch.setattr(retention, "CHUNK", 1)
    old = [accepted(clock.now - timedelta(days=100), state=State.SUCCEEDED, published_at=None) for _ in range(3)]
    DispatchRecord.objects.update(finished_at=clock.now - timedelta(days=100))
    clock.passes(minutes=1)
    left = []
    while not left or left[-1]:
        run_pass(steady)
        left.append(DispatchRecord.objects.filter(pk__in=[record.pk for record in old]).count())
    assert set(left) == {2, 1, 0}, "one at a time"


def test_a_single_refused_message_waits_only_a_moment(
    steady: Reaper, clock: Clock, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "publish", lambda *_: False)
    refused = accepted(clock.now, published_at=None, due_at=clock.now)
    run_pass(steady)
    refused.refresh_from_db()
    assert refused.due_at == clock.now + timedelta(seconds=module.REFUSED_FOR)


def test_dispatches_in_a_removed_queue_fail_once_no_worker_can_know_it(
    steady: Reaper, clock: Clock, wire: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.recovery.former_queues._is_served", lambda _queue: False)
    monkeypatch.setattr("workers.recovery.former_queues._reported", {})
    on_broker, in_ledger = (
        accepted(clock.now, queue="former", **values) for values in ({}, {"published_at": None, "due_at": clock.now})
    )
    clock.passes(minutes=10)
    run_pass(steady)
    assert state(on_broker) == state(in_ledger) == State.QUEUED, "another process may have newer settings"
    assert "2 dispatches wait in the queue 'former'" in caplog.text
    run_pass(steady)
    assert caplog.text.count("dispatches wait in the queue 'former'") == 1
    clock.passes(minutes=6)
    run_pass(steady)
    for record in (on_broker, in_ledger):
        record.refresh_from_db()
        assert (record.state, record.error) == ("failed", "the queue 'former' is not configured any more")
        assert record.sealed, "it can be run again"
    assert wire.published == []


def test_a_recently_retried_dispatch_does_not_block_others(
    steady: Reaper, clock: Clock, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.recovery.former_queues._is_served", lambda _queue: False)
    monkeypatch.setattr("workers.recovery.former_queues.BATCH", 2)
    retried = [accepted(clock.now, queue="former") for _ in range(3)]
    others = [accepted(clock.now + timedelta(seconds=1), queue="former") for _ in range(3)]
    clock.passes(minutes=20)
    for record in retried:
        ActionRecord.objects.create(dispatch=record, at=clock.now - timedelta(hours=1), action="retry")
        ActionRecord.objects.create(dispatch=record, at=clock.now - timedelta(minutes=5), action="retry")
    ActionRecord.objects.create(dispatch=others[0], at=clock.now - timedelta(minutes=5), action="discard")
    for _ in range(2):
        clock.passes(seconds=60)
        run_pass(steady)
    assert {state(record) for record in others} == {State.FAILED}
    assert {state(record) for record in retried} == {State.QUEUED}
    clock.passes(minutes=10)
    run_pass(steady)
    assert [state(record) for record in retried].count(State.FAILED) == 2


def test_a_worker_with_old_settings_does_not_fail_dispatches_of_a_queue_in_use(
    steady: Reaper, clock: Clock, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = accepted(clock.now, queue="newer")
    clock.passes(minutes=16)
    fresh = accepted(clock.now, queue="newer")
    run_pass(steady)
    assert state(old) == state(fresh) == State.QUEUED, "something was accepted into it of late"
    monkeypatch.setattr("workers.recovery.former_queues._is_served", lambda queue: queue == "newer")
    clock.passes(minutes=16)
    run_pass(steady)
    assert state(old) == state(fresh) == State.QUEUED, "another worker serves it"


def test_a_lease_that_expired_while_the_ledger_was_read_only_is_kept(
    steady: Reaper, clock: Clock, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on SQLite, if another process locks the file for longer than a lease."""
    record = accepted(clock.now)
    ledger.claim(record.pk, module.conf.queues["bulk"], "alive", clock.now)
    for _ in range(4):
        clock.passes(seconds=10)
        steady._is_steady(clock.now)
    waited = iter([0.0, 7.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(waited, 100.0))
    run_pass(steady)
    assert state(record) == State.RUNNING
    ledger.renew([(record.pk, 1)], clock.now)
    for _ in range(2):
        clock.passes(seconds=10)
        run_pass(steady)
    assert state(record) == State.RUNNING


BOUND = {"QUEUES": {"bulk": {"max_published": 5}}}


@override_settings(REQUEST_BROKER=BOUND)
def test_a_full_queue_does_not_block_others_and_is_published_in_order(steady: Reaper, clock: Clock, wire: Wire) -> None:
    held = [
        accepted(clock.now, published_at=None, due_at=clock.now - timedelta(seconds=300 - number))
        for number in range(150)
    ]
    other = accepted(clock.now, queue="payment", published_at=None, due_at=clock.now)
    wire.waiting = {"bulk": 5}
    run_pass(steady)
    assert wire.published == [other.pk]
    wire.waiting = {"bulk": 2}
    run_pass(steady)
    assert set(wire.published[1:]) == {record.pk for record in held[:3]}


@override_settings(REQUEST_BROKER=BOUND)
def test_each_pass_publishes_a_few_if_the_queue_length_is_unknown(steady: Reaper, clock: Clock, wire: Wire) -> None:
    held = [accepted(clock.now, published_at=None, due_at=clock.now) for _ in range(2 * module.A_FEW + 1)]
    wire.waiting = None
    for number in (module.A_FEW, 2 * module.A_FEW, len(held)):
        run_pass(steady)
        assert len(set(wire.published)) == number


def explained(caplog: pytest.LogCaptureFixture, pattern: re.Pattern[str], record: DispatchRecord) -> int:
    """Returns how many log lines explain to `chaos` why this dispatch ran again."""
    return mentions(pattern, caplog.messages)[str(record.pk)]


@pytest.mark.parametrize(
    ("unknown_here", "pattern"), [(False, RETRY), (True, HAND_BACK)], ids=["failed", "handed back"]
)
def test_chaos_reads_that_an_attempt_failed_or_was_handed_back(
    clock: Clock, caplog: pytest.LogCaptureFixture, unknown_here: bool, pattern: re.Pattern[str]
) -> None:
    record, policy = accepted(clock.now), conf.queues["bulk"]
    attempt = tasks.Attempt(record.pk, ledger.claim(record.pk, policy, "a@b"), policy, timezone.now())
    answer = Answer(ResponseMessage(500), "500", retriable=True, unknown_here=unknown_here)
    with caplog.at_level(logging.INFO, "workers.tasks"):
        assert tasks._retry(attempt, answer) is not None
    assert explained(caplog, pattern, record) == 1


def test_chaos_reads_that_a_lease_ran_out(steady: Reaper, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    record = accepted(clock.now)
    ledger.claim(record.pk, conf.queues["bulk"], "gone", clock.now)
    for _ in range(3):
        clock.passes(seconds=10)
        run_pass(steady)
    assert explained(caplog, LOSS, record) == 1


def test_chaos_reads_that_a_process_was_lost(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    record = accepted(clock.now)
    attempt = ledger.claim(record.pk, conf.queues["bulk"], "a@b")
    assert ReplayRequest._lost(object.__new__(ReplayRequest), record.pk, Run(attempt)) is not None
    assert explained(caplog, LOSS, record) == 1
