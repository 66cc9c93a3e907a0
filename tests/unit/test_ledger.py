from __future__ import annotations

import uuid
from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker_core.dispatches import FOLLOWERS, State
from broker_core.errors import DispatchConflictError
from broker_core.policies import QueuePolicy
from broker_django import ledger
from broker_django.ledger import LEASE_MARGIN, Outcome
from broker_django.models import PATH_LENGTH, DispatchRecord

pytestmark = pytest.mark.django_db

POLICY = QueuePolicy(time_limit=60, max_attempts=2)
LEASE = timedelta(seconds=60) + LEASE_MARGIN
DONE = Outcome(200, "text/plain", 5)


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
    ledger.accept(record)
    return record


def state_of(record: DispatchRecord) -> State:
    return State(DispatchRecord.objects.values_list("state", flat=True).get(pk=record.pk))


def test_one_claim_wins(now):
    record = accepted(now)
    assert [ledger.claim(record.pk, POLICY, f"worker {number}", now) for number in range(3)] == [1, 0, 0]
    record.refresh_from_db()
    assert (record.state, record.worker, record.started_at) == (State.RUNNING, "worker 0", now)
    assert record.lease_until == now + LEASE


def test_a_claim_can_be_taken_over_when_its_lease_ran_out(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "first", now)
    assert ledger.claim(record.pk, POLICY, "second", now + LEASE - timedelta(microseconds=1)) == 0
    assert ledger.claim(record.pk, POLICY, "second", now + LEASE) == 2
    assert not ledger.finish(record.pk, 1, DONE, now + LEASE)
    assert state_of(record) is State.RUNNING
    assert ledger.finish(record.pk, 2, DONE, now + LEASE)


def test_a_dispatch_is_started_as_often_as_its_policy_says(now):
    record = accepted(now)
    assert [ledger.claim(record.pk, POLICY, "", now + number * LEASE) for number in range(4)] == [1, 2, 0, 0]


def test_what_expired_is_not_run_and_what_has_not_is_not_expired(now):
    record = accepted(now, expires=10)
    end = now + timedelta(seconds=10)
    assert not ledger.expire(record.pk, end - timedelta(microseconds=1))
    assert ledger.claim(record.pk, POLICY, "", end) == 0
    assert ledger.expire(record.pk, end)
    assert not ledger.expire(record.pk, end)
    record.refresh_from_db()
    assert (record.state, record.finished_at) == (State.EXPIRED, end)


def test_what_never_expires_does_not(now):
    record = accepted(now)
    assert not ledger.expire(record.pk, now + timedelta(days=9_999))


def test_what_is_cancelled_stays_so_and_is_not_run(now):
    record = accepted(now)
    ledger.cancel(record.pk, now)
    ledger.cancel(record.pk, now + LEASE)
    record.refresh_from_db()
    assert (record.state, record.finished_at) == (State.CANCELLED, now)
    assert ledger.claim(record.pk, POLICY, "", now) == 0


def test_what_runs_or_is_done_cannot_be_cancelled(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)
    with pytest.raises(DispatchConflictError, match="running"):
        ledger.cancel(record.pk, now)
    ledger.finish(record.pk, 1, DONE, now)
    with pytest.raises(DispatchConflictError, match="succeeded"):
        ledger.cancel(record.pk, now)


def test_an_outcome_is_recorded_once(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)
    assert ledger.finish(record.pk, 1, Outcome(502, "text/html" * 100, 7, "bad" * 500), now)
    assert not ledger.finish(record.pk, 1, DONE, now)
    record.refresh_from_db()
    assert (record.state, record.response_status, record.response_size) == (State.FAILED, 502, 7)
    assert (record.lease_until, record.finished_at) == (None, now)
    assert record.outcome() == {"status": 502, "content_type": ("text/html" * 100)[:255], "size": 7}


def test_an_outcome_without_a_response_has_none(now):
    record = accepted(now)
    ledger.claim(record.pk, POLICY, "", now)
    ledger.finish(record.pk, 1, Outcome(error="lost"), now)
    record.refresh_from_db()
    assert (record.state, record.outcome(), record.response_size) == (State.FAILED, None, None)


def test_an_id_is_accepted_once(now):
    record = accepted(now)
    with pytest.raises(IntegrityError), transaction.atomic():
        ledger.accept(DispatchRecord(pk=record.pk, accepted_at=now, sealed=b""))


def test_a_dispatch_that_is_not_there_is_not_to_be_had(now):
    nobody = uuid.uuid4()
    assert ledger.claim(nobody, POLICY, "", now) == 0
    assert not ledger.finish(nobody, 1, DONE, now)
    assert not ledger.expire(nobody, now)
    assert ledger.find(nobody) is None
    with pytest.raises(DispatchConflictError):
        ledger.cancel(nobody, now)


def test_what_is_looked_at_after_its_time_is_expired(now):
    long_ago = now.replace(year=2020)
    assert ledger.find(accepted(long_ago, expires=10).pk).current_state is State.EXPIRED
    assert ledger.find(accepted(long_ago).pk).current_state is State.QUEUED


def test_the_sealed_request_is_not_read_for_a_look(now, django_assert_num_queries):
    record = accepted(now)
    with django_assert_num_queries(1) as queries:
        found = ledger.find(record.pk)
    assert '"sealed"' not in queries[0]["sql"]
    assert bytes(found.sealed) == b"sealed"


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_first_claim_is_one_statement_and_a_later_one_at_most_three(now, attempts, django_assert_max_num_queries):
    record = accepted(now)
    for attempt in range(attempts):
        with django_assert_max_num_queries(3 if attempt else 1):
            assert ledger.claim(record.pk, POLICY, "", now + attempt * LEASE) == attempt + 1


@given(st.text(max_size=10), st.integers(0, PATH_LENGTH + 5))
def test_a_path_of_any_length_is_kept_as_far_as_there_is_room(end, length):
    path = "/" * length + end
    kept = ledger.truncated(path)
    assert len(kept) == min(len(path), PATH_LENGTH)
    assert kept == path or (kept.endswith("…") and path.startswith(kept[:-1]))


class Dispatches(RuleBasedStateMachine):
    """Workers, clients and the clock act on one dispatch in any order; a small model says what each may see."""

    @initialize(expires=st.sampled_from([None, 40.0, 400.0]), attempts=st.integers(1, 3), year=st.just(2030))
    def accept(self, expires, attempts, year):
        self.now = datetime.fromisoformat(f"{year}-01-01T00:00:00+00:00")
        self.policy = QueuePolicy(time_limit=60, max_attempts=attempts)
        self.record = accepted(self.now, expires)
        self.end = self.record.expires_at
        self.state, self.attempts, self.lease = State.QUEUED, 0, None

    @property
    def over(self):
        return self.end is not None and self.end <= self.now

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0, 90.0, 91.0]))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule()
    def claim(self):
        free = self.state is State.QUEUED or (self.state is State.RUNNING and self.lease <= self.now)
        may = free and not self.over and self.attempts < self.policy.max_attempts
        assert ledger.claim(self.record.pk, self.policy, "worker", self.now) == (self.attempts + 1 if may else 0)
        if may:
            self.state, self.attempts, self.lease = State.RUNNING, self.attempts + 1, self.now + LEASE

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), error=st.sampled_from(["", "broken"]))
    def finish(self, data, error):
        attempt = data.draw(st.integers(1, self.attempts))
        may = self.state is State.RUNNING and attempt == self.attempts
        assert ledger.finish(self.record.pk, attempt, Outcome(200, error=error), self.now) is may
        if may:
            self.state = State.FAILED if error else State.SUCCEEDED

    @rule()
    def give_up(self):
        may = self.state is State.RUNNING and self.lease > self.now
        assert ledger.give_up(self.record.pk, "killed", self.now) is may
        if may:
            self.state = State.FAILED

    @rule()
    def cancel(self):
        if self.state in (State.QUEUED, State.CANCELLED):
            ledger.cancel(self.record.pk, self.now)
            self.state = State.CANCELLED
        else:
            with pytest.raises(DispatchConflictError):
                ledger.cancel(self.record.pk, self.now)

    @rule()
    def expire(self):
        may = self.state is State.QUEUED and self.over
        assert ledger.expire(self.record.pk, self.now) is may
        if may:
            self.state = State.EXPIRED

    @invariant()
    def the_ledger_says_what_the_model_says(self):
        before = self.record.current_state
        self.record.refresh_from_db()
        after = self.record.current_state
        assert after is self.state
        assert after is before or after in FOLLOWERS[before]
        assert self.record.attempts == self.attempts <= self.policy.max_attempts
        assert (self.record.finished_at is not None) == after.done
        assert (self.record.lease_until is not None) == (after is State.RUNNING)


def test_any_order_of_events_follows_the_states():
    run_state_machine_as_test(Dispatches, settings=settings(max_examples=40, stateful_step_count=15, deadline=None))
