from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st

from broker_core.dispatches import PATH_LENGTH, Outcome, Run, State, transitions, truncated
from broker_core.errors import DispatchConflictError
from broker_core.policies import QueuePolicy
from broker_django.conf import conf
from broker_django.ledger import ledger, results
from broker_django.models import AttemptRecord, DispatchRecord
from tests.rows import accept, as_dispatch

pytestmark = pytest.mark.django_db

POLICY = QueuePolicy(time_limit=60, max_attempts=2)
LEASE = timedelta(seconds=30)
DONE = Outcome(200, "text/plain", 5)
BROKEN = Outcome(503, "text/plain", 5, "the view answered 503", retriable=True)
MOMENT = timedelta(microseconds=1)


def accepted(now: datetime, expires: float | None = None) -> DispatchRecord:
    record = DispatchRecord(
        queue="bulk",
        method="GET",
        path="/",
        route="/",
        accepted_at=now,
        expires_at=None if expires is None else now + timedelta(seconds=expires),
        sealed=b"sealed",
    )
    accept(record)
    return record


def state_of(record: DispatchRecord) -> State:
    return State(DispatchRecord.objects.values_list("state", flat=True).get(pk=record.pk))


def test_one_claim_wins(now):
    record = accepted(now)
    assert [ledger.claim(record.pk, POLICY, f"worker {number}", now) for number in range(3)] == [1, 0, 0]
    record.refresh_from_db()
    assert (record.state, record.worker, record.started_at) == (State.RUNNING, "worker 0", now)
    assert record.due_at == now + LEASE


def lost(record: DispatchRecord, now: datetime) -> State | None:
    return ledger.lose(record.pk, Run(lapsed_at=now), "the lease ran out", now)


def published(record: DispatchRecord) -> None:
    DispatchRecord.objects.filter(pk=record.pk).update(due_at=None)


def test_a_delayed_claim_gets_a_whole_lease(now):
    record, late = accepted(now, expires=100), accepted(now, expires=20)
    later = now + timedelta(seconds=60)
    assert ledger.claim(record.pk, POLICY, "slow", later, first_asked=now) == 1
    record.refresh_from_db()
    assert (record.started_at, record.due_at) == (now, later + LEASE)
    assert ledger.claim(late.pk, POLICY, "slow", later, first_asked=now) == 0, "it has expired by then"


def test_a_repeated_claim_renews_the_first_one(now):
    record = accepted(now)
    later = now + timedelta(seconds=60)
    assert ledger.claim(record.pk, POLICY, "here", now, first_asked=now) == 1
    assert ledger.claim(record.pk, POLICY, "here", later, first_asked=now) == 1
    assert ledger.claim(record.pk, POLICY, "there", later, first_asked=now) == 0
    record.refresh_from_db()
    assert (record.attempts, record.due_at) == (1, later + LEASE)


def test_after_a_lease_ends_the_next_attempt_claims_the_dispatch(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "first", now)
    assert lost(record, now + LEASE - MOMENT) is None
    assert lost(record, now + LEASE) is State.QUEUED
    assert ledger.claim(record.pk, POLICY, "second", now + LEASE) == 0, "it waits for the reaper to publish it"
    published(record)
    assert ledger.claim(record.pk, POLICY, "second", now + LEASE) == 2
    assert not ledger.conclude(record.pk, 1, POLICY, DONE, now=now + LEASE)
    assert state_of(record) is State.RUNNING
    assert ledger.conclude(record.pk, 2, POLICY, DONE, now=now + LEASE)
    [attempt] = AttemptRecord.objects.all()
    assert (attempt.number, attempt.worker, attempt.started_at, attempt.error) == (1, "first", now, "the lease ran out")


def test_a_renewed_lease_is_valid(now):
    records = [accepted(now), accepted(now)]
    claims = [(record.pk, ledger.claim(record.pk, POLICY, "", now)) for record in records]
    later = now + LEASE - MOMENT
    assert ledger.renew([*claims, (uuid.uuid4(), 1), (records[0].pk, 7)], later) == 2
    assert [lost(record, now + LEASE) for record in records] == [None, None]
    assert ledger.renew([], later) == 0
    assert lost(records[0], later + LEASE) is State.QUEUED


def test_a_dispatch_is_started_as_often_as_its_policy_says(now):
    record = accepted(now)
    for attempt in (1, 2):
        assert ledger.claim(record.pk, POLICY, "", now) == attempt
        assert ledger.lose(record.pk, Run(), "the worker process was lost", now) is State.QUEUED
    assert ledger.claim(record.pk, POLICY, "", now) == 0


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        ({"max_attempts": 1}, "the lease ran out"),
        (
            {"delivery": "at_most_once"},
            "the lease ran out; it is not run again because the queue delivers at most once",
        ),
    ],
)
def test_a_lost_dispatch_that_may_not_run_again_fails(now, settings, policy, error):
    settings.REQUEST_BROKER = {"QUEUES": {"bulk": policy}}
    record = accepted(now)
    ledger.claim(record.pk, conf.queues["bulk"], "", now)
    assert lost(record, now + LEASE) is State.FAILED
    record.refresh_from_db()
    assert (record.error, record.due_at, bytes(record.sealed)) == (error, None, b"sealed")


def test_a_failed_attempt_is_retried_later(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "first", now)
    due = ledger.retry(record.pk, Run(1), POLICY, replace(BROKEN, retry_after=20.0), now)
    assert due == now + timedelta(seconds=20)
    record.refresh_from_db()
    assert (record.state, record.due_at, record.published_at, record.attempts) == (State.QUEUED, due, None, 1)
    assert [(each.number, each.response_status) for each in record.ended_attempts.all()] == [(1, 503)]
    assert ledger.claim(record.pk, POLICY, "", due) == 0, "the reaper must publish it first"
    published(record)
    assert ledger.claim(record.pk, POLICY, "", due) == 2
    assert ledger.retry(record.pk, Run(2), POLICY, BROKEN, due) is None, "that was the last"


@pytest.mark.parametrize("outcome", [DONE, replace(BROKEN, retriable=False), replace(BROKEN, retry_after=11.0)])
def test_a_useless_or_late_retry_is_refused(now, outcome):
    record = accepted(now, expires=10)
    ledger.claim(record.pk, POLICY, "", now)
    assert ledger.retry(record.pk, Run(1), POLICY, outcome, now) is None
    assert state_of(record) is State.RUNNING


def test_an_attempt_that_was_replaced_is_not_retried(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)
    ledger.lose(record.pk, Run(), "the worker process was lost", now)
    ledger.claim(record.pk, POLICY, "", now)
    assert ledger.retry(record.pk, Run(1), POLICY, BROKEN, now) is None


def test_a_dispatch_that_could_not_be_published_waits_in_the_ledger(now):
    record = accepted(now)
    ledger.postpone(record.pk, now + LEASE)
    record.refresh_from_db()
    assert (record.due_at, record.published_at) == (now + LEASE, None)
    ledger.claim(record.pk, POLICY, "", now)
    ledger.postpone(record.pk, now)
    record.refresh_from_db()
    assert record.due_at == now + LEASE, "it runs, so the message broker had accepted it"


def test_the_response_of_a_finished_dispatch_is_due_to_be_dropped(now, monkeypatch):
    records = [accepted(now), accepted(now)]
    policy = replace(POLICY, results_ttl=60.0)
    for record in records:
        ledger.claim(record.pk, policy, "", now)
    ledger.conclude(records[0].pk, 1, policy, DONE, "sealed", now=now)
    monkeypatch.setattr(results, "backend_beside_ledger", lambda: None)
    monkeypatch.setattr(results, "store", lambda *_: False)
    ledger.conclude(records[1].pk, 1, policy, DONE, "sealed", now=now)
    for record in records:
        record.refresh_from_db()
    assert [record.due_at - now for record in records] == [timedelta(seconds=60), timedelta(0)]
    assert [record.kept_response and bytes(record.kept_response) for record in records] == [None, b"sealed"]
    assert [ledger.response(ledger.find(record.pk)) for record in records] == ["sealed", "sealed"]


def test_a_success_keeps_no_request_and_a_failure_does(now):
    records = [accepted(now), accepted(now)]
    for record, outcome in zip(records, [DONE, BROKEN], strict=True):
        ledger.claim(record.pk, POLICY, "", now)
        ledger.conclude(record.pk, 1, POLICY, outcome, now=now)
        record.refresh_from_db()
    assert [bytes(record.sealed) for record in records] == [b"", b"sealed"]


def test_a_dead_letter_runs_again_with_all_its_attempts(now):
    record = accepted(now, expires=100)
    ledger.claim(record.pk, POLICY, "", now)
    ledger.conclude(record.pk, 1, POLICY, BROKEN, now=now)
    later = now + timedelta(days=1)
    assert ledger.revive(record.pk, "root", later)
    assert not ledger.revive(record.pk, "root", later), "it is no longer a dead letter"
    record.refresh_from_db()
    assert (record.state, record.due_at, record.error, as_dispatch(record).summary()) == (State.QUEUED, later, "", None)
    assert record.expires_at == later + timedelta(seconds=100)
    assert [(each.number, each.error) for each in record.ended_attempts.all()] == [(1, BROKEN.error)]
    assert [(each.action, each.actor, each.detail) for each in record.actions.all()] == [
        ("retry", "root", BROKEN.error)
    ]
    for attempt in (2, 3):
        published(record)
        assert ledger.claim(record.pk, POLICY, "", later) == attempt
        lost(record, later + LEASE)
    published(record)
    assert ledger.claim(record.pk, POLICY, "", later) == 0


def test_only_dead_letters_run_again_or_are_discarded(now):
    queued, done, cancelled, dead = (accepted(now) for _ in range(4))
    for record, outcome in ((done, DONE), (dead, BROKEN)):
        ledger.claim(record.pk, POLICY, "", now)
        ledger.conclude(record.pk, 1, POLICY, outcome, now=now)
    ledger.cancel(cancelled.pk, now)
    for record in (queued, done, cancelled):
        assert not ledger.revive(record.pk, "root", now)
        assert not ledger.discard(record.pk, "root", now)
    assert ledger.discard(dead.pk, "root", now)
    assert not ledger.revive(dead.pk, "root", now), "its request is gone"
    assert not ledger.discard(dead.pk, "root", now)
    assert [each.action for each in dead.actions.all()] == ["discard"]


def test_only_the_matching_attempt_is_lost_or_given_up(now):
    """The worker of the first attempt, which lost its lease, reports too late that its process was lost."""
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "first", now)
    lost(record, now + LEASE)
    published(record)
    later = now + LEASE + MOMENT
    ledger.claim(record.pk, POLICY, "second", later)
    for late in (
        Run(1),
        Run(worker="first"),
        Run(worker="second", since=later + MOMENT),
        Run(attempt=2, worker="first"),
    ):
        assert ledger.lose(record.pk, late, "the worker process was lost", later) is None
        assert ledger.give_up(record.pk, late, "TimeLimitExceeded", later) is None
        assert not ledger.stop(record.pk, late, later)
    assert ledger.lose(record.pk, Run(worker="second", since=later), "lost", later) is State.QUEUED


def test_a_lease_that_is_renewed_meanwhile_does_not_end_the_retries(now, monkeypatch):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)

    def pause_and_renew(*_args):
        ledger.renew([(record.pk, 1)], now + timedelta(seconds=10))
        return 1.0

    monkeypatch.setattr(transitions, "pause", pause_and_renew)
    assert ledger.retry(record.pk, Run(1), POLICY, BROKEN, now) == now + timedelta(seconds=1)


def test_only_the_worker_that_made_a_claim_finds_it_again(now):
    record = accepted(now)
    assert [ledger.claim(record.pk, POLICY, "worker", now) for _ in range(2)] == [1, 1]
    assert ledger.claim(record.pk, POLICY, "worker", now + MOMENT) == 0
    assert ledger.claim(record.pk, POLICY, "another", now) == 0


def test_a_dispatch_fails_if_its_queue_now_allows_fewer_attempts(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)
    ledger.lose(record.pk, Run(), "the worker process was lost", now)
    assert ledger.close(record.pk, POLICY, now) is None
    fewer = replace(POLICY, max_attempts=1)
    assert ledger.claim(record.pk, fewer, "", now) == 0
    assert ledger.close(record.pk, fewer, now) is State.FAILED
    assert ledger.close(accepted(now).pk, fewer, now) is None


def test_an_attempt_is_stopped_only_on_its_worker(now):
    record = accepted(now)
    assert not ledger.stop(record.pk, Run(1, "here"), now)
    ledger.claim(record.pk, POLICY, "here", now)
    assert not ledger.stop(record.pk, Run(1, "there"), now)
    assert ledger.stop(record.pk, Run(1, "here"), now)
    assert not ledger.conclude(record.pk, 1, POLICY, DONE, now=now)
    assert state_of(record) is State.CANCELLED


def test_a_dispatch_expires_in_time_and_does_not_run_later(now):
    record = accepted(now, expires=10)
    end = now + timedelta(seconds=10)
    assert not ledger.expire(record.pk, end - timedelta(microseconds=1))
    assert ledger.claim(record.pk, POLICY, "", end) == 0
    assert ledger.expire(record.pk, end)
    assert not ledger.expire(record.pk, end)
    record.refresh_from_db()
    assert (record.state, record.finished_at) == (State.EXPIRED, end)


def test_a_dispatch_without_expires_at_does_not_expire(now):
    record = accepted(now)
    assert not ledger.expire(record.pk, now + timedelta(days=9_999))


def test_a_cancelled_dispatch_stays_cancelled_and_does_not_run(now):
    record = accepted(now)
    ledger.cancel(record.pk, now)
    ledger.cancel(record.pk, now + LEASE)
    record.refresh_from_db()
    assert (record.state, record.finished_at) == (State.CANCELLED, now)
    assert ledger.claim(record.pk, POLICY, "", now) == 0


def test_a_running_or_finished_dispatch_cannot_be_cancelled(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)
    with pytest.raises(DispatchConflictError, match="running"):
        ledger.cancel(record.pk, now)
    ledger.conclude(record.pk, 1, POLICY, DONE, now=now)
    with pytest.raises(DispatchConflictError, match="succeeded"):
        ledger.cancel(record.pk, now)


def test_an_outcome_is_recorded_once(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)
    assert ledger.conclude(record.pk, 1, POLICY, Outcome(502, "text/html" * 100, 7, "bad" * 500), now=now)
    assert not ledger.conclude(record.pk, 1, POLICY, DONE, now=now)
    record.refresh_from_db()
    assert (record.state, record.response_status, record.response_size) == (State.FAILED, 502, 7)
    assert (record.due_at, record.finished_at) == (None, now)
    assert as_dispatch(record).summary() == {"status": 502, "content_type": ("text/html" * 100)[:255], "size": 7}


def test_an_outcome_may_have_no_response(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)
    ledger.conclude(record.pk, 1, POLICY, Outcome(error="lost"), now=now)
    record.refresh_from_db()
    assert (record.state, as_dispatch(record).summary(), record.response_size) == (State.FAILED, None, None)


def test_an_id_is_accepted_once(now):
    record = accepted(now)
    with pytest.raises(IntegrityError), transaction.atomic():
        accept(DispatchRecord(pk=record.pk, accepted_at=now, sealed=b""))


def test_an_unknown_dispatch_has_no_transitions(now):
    nobody = uuid.uuid4()
    assert ledger.claim(nobody, POLICY, "", now) == 0
    assert not ledger.conclude(nobody, 1, POLICY, DONE, now=now)
    assert not ledger.expire(nobody, now)
    assert ledger.find(nobody) is None
    with pytest.raises(DispatchConflictError):
        ledger.cancel(nobody, now)


def test_finding_an_overdue_dispatch_expires_it(now):
    long_ago = now.replace(year=2020)
    assert ledger.find(accepted(long_ago, expires=10).pk).state is State.EXPIRED
    assert ledger.find(accepted(long_ago).pk).state is State.QUEUED


def test_find_does_not_read_the_sealed_request(now, django_assert_num_queries):
    record = accepted(now)
    with django_assert_num_queries(1) as queries:
        found = ledger.find(record.pk)
    assert '"sealed"' not in queries[0]["sql"]
    assert found == ledger.sealed(record.pk).dispatch
    assert ledger.sealed(record.pk).content == b"sealed"


def test_a_first_claim_is_one_statement_and_a_later_one_at_most_three(now, django_assert_max_num_queries):
    record = accepted(now)
    with django_assert_max_num_queries(1):
        assert ledger.claim(record.pk, POLICY, "", now) == 1
    ledger.lose(record.pk, Run(), "the worker process was lost", now)
    with django_assert_max_num_queries(3):
        assert ledger.claim(record.pk, POLICY, "", now) == 2


@given(st.text(max_size=10), st.integers(0, PATH_LENGTH + 5))
def test_a_long_path_is_truncated(end, length):
    path = "/" * length + end.replace("\0", "")
    kept = truncated(path)
    assert len(kept) == min(len(path), PATH_LENGTH)
    assert kept == path or (kept.endswith("…") and path.startswith(kept[:-1]))


def test_a_success_asks_the_ledger_nothing_before_it_is_recorded(now, django_assert_num_queries):
    record, success = accepted(now), Outcome(200, "text/plain", 5)
    with django_assert_num_queries(1):
        assert ledger.claim(record.pk, POLICY, "worker", now, first_asked=now) == 1
    with django_assert_num_queries(0):
        assert ledger.retry(record.pk, Run(1), POLICY, success, now, first_asked=now) is None
    with django_assert_num_queries(1):
        assert ledger.conclude(record.pk, 1, POLICY, success, now=now, first_asked=now)
