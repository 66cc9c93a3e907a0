"""The laws of the state machine, which every ledger obeys."""

from __future__ import annotations

import inspect
import threading
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError
from django.test import TestCase, override_settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker_core.dispatches import (
    FOLLOWERS,
    NOT_REACHED,
    REVIVABLE,
    Dispatch,
    Group,
    Ledger,
    Outcome,
    Run,
    SealedRequest,
    Selection,
    State,
    transitions,
)
from broker_core.dispatches.events import Event, Events, Kind
from broker_core.dispatches.memory_ledger import MemoryLedger
from broker_core.errors import DispatchConflictError
from broker_core.policies import QueuePolicy
from broker_django.conf import conf
from broker_django.ledger.database import DatabaseLedger
from broker_django.models import AttemptRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.django_db

NOW = datetime(2030, 5, 17, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)
MOMENT = timedelta(microseconds=1)
POLICY = QueuePolicy(max_attempts=2, results_ttl=60.0)
DONE = Outcome(200, "text/plain", 5)
BROKEN = Outcome(503, "text/plain", 5, "the view answered 503", retriable=True)
QUEUES = {"bulk": {"max_attempts": 2, "results_ttl": 60}, "payment": {"delivery": "at_most_once"}}
KINDS = {"memory": lambda: MemoryLedger(conf.queues, clock=lambda: NOW), "database": lambda: DatabaseLedger(Events())}


@pytest.fixture(params=KINDS)
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    with override_settings(REQUEST_BROKER={"QUEUES": QUEUES}):
        yield KINDS[request.param]()


def committing(ledger: Ledger) -> AbstractContextManager[Any]:
    """Tests never commit, so run what waits for a commit at the end of this block."""
    return nullcontext() if isinstance(ledger, MemoryLedger) else TestCase.captureOnCommitCallbacks(execute=True)


def accepted(ledger: Ledger, queue: str = "bulk", at: datetime = NOW, **facts: Any) -> Dispatch:
    given = {"published_at": at, "method": "GET", "path": "/", "route": "/", **facts}
    seal = given.pop("seal", "1.key")
    return ledger.accept(SealedRequest(Dispatch(uuid.uuid4(), queue, at, **given), b"sealed", seal=seal))


def current(ledger: Ledger, dispatch: Dispatch) -> Dispatch:
    sealed = ledger.sealed(dispatch.id)
    assert sealed is not None
    return sealed.dispatch


def ended(ledger: Ledger, dispatch: Dispatch) -> list[int]:
    """The numbers of the attempts that were followed by another."""
    if isinstance(ledger, MemoryLedger):
        return [each.number for each in ledger.ended_attempts(dispatch.id)]
    attempts = AttemptRecord.objects.filter(dispatch=dispatch.id).order_by("number")
    return list(attempts.values_list("number", flat=True))


@pytest.mark.parametrize("kind", [MemoryLedger, DatabaseLedger])
def test_a_ledger_has_the_signatures_of_the_protocol(kind: type) -> None:
    for name, method in inspect.getmembers(Ledger, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(kind, name)).parameters) == list(inspect.signature(method).parameters)


def test_one_of_many_threads_claims_the_dispatch() -> None:
    ledger = MemoryLedger({"bulk": POLICY}, clock=lambda: NOW)
    dispatch, claims, ready = accepted(ledger), [], threading.Barrier(8)

    def claim(worker: str) -> None:
        ready.wait()
        claims.append(ledger.claim(dispatch.id, POLICY, worker))

    threads = [threading.Thread(target=claim, args=[f"worker {number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claims) == 7 * [0] + [1]


def test_an_id_is_accepted_once(ledger: Ledger) -> None:
    dispatch = accepted(ledger)
    with pytest.raises((DatabaseError, DispatchConflictError)):
        ledger.accept(SealedRequest(dispatch, b"sealed"))


def test_a_key_identifies_one_dispatch(ledger: Ledger) -> None:
    first = accepted(ledger, idempotency_key="a" * 64, fingerprint="one")
    again = accepted(ledger, idempotency_key="a" * 64, fingerprint="another")
    other = accepted(ledger, idempotency_key="b" * 64)
    assert (again.id, again.fingerprint) == (first.id, "one")
    assert ledger.find_by_key("a" * 64) == again
    assert other.id != first.id
    assert ledger.find_by_key("c" * 64) is None


def test_a_dispatch_is_found_as_it_was_accepted(ledger: Ledger) -> None:
    facts = {"user": "7", "credential": "session:x", "host": "shop", "tenant": "one", "trace_fields": "{}"}
    dispatch = accepted(ledger, trace_id="a" * 32, expires_at=NOW + LEASE, **facts)
    assert ledger.find(dispatch.id) == dispatch
    assert ledger.find_all([dispatch.id, uuid.uuid4()]) == {dispatch.id: dispatch}
    assert ledger.sealed(dispatch.id) == SealedRequest(dispatch, b"sealed", "", "1.key")
    assert ledger.find(uuid.uuid4()) is None
    assert ledger.sealed(uuid.uuid4()) is None


def test_a_response_is_recorded_with_its_outcome_and_dropped_in_time(ledger: Ledger) -> None:
    dispatch = accepted(ledger)
    attempt = ledger.claim(dispatch.id, POLICY, "worker", NOW)
    assert ledger.conclude(dispatch.id, attempt, POLICY, DONE, "sealed response", now=NOW)
    assert not ledger.conclude(dispatch.id, attempt, POLICY, BROKEN, "another", now=NOW)
    found = current(ledger, dispatch)
    assert (found.state, found.summary()) == (State.SUCCEEDED, {"status": 200, "content_type": "text/plain", "size": 5})
    assert (found.drop_response_at, found.lease_ends_at, found.publish_at) == (NOW + timedelta(seconds=60), None, None)
    assert ledger.response(found) == "sealed response"
    for _deleted in ledger.keep_house(NOW + timedelta(seconds=60)):
        pass
    assert ledger.response(found) is None
    assert current(ledger, dispatch).drop_response_at is None


def test_a_success_keeps_no_request_and_a_failure_does(ledger: Ledger) -> None:
    kept = []
    for outcome in (DONE, BROKEN):
        dispatch = accepted(ledger)
        ledger.conclude(dispatch.id, ledger.claim(dispatch.id, POLICY, "", NOW), POLICY, outcome, now=NOW)
        sealed = ledger.sealed(dispatch.id)
        kept.append(sealed is not None and sealed.is_kept)
    assert kept == [False, True]


def test_an_at_most_once_dispatch_is_not_started_again(ledger: Ledger) -> None:
    dispatch = accepted(ledger, "payment")
    assert ledger.claim(dispatch.id, conf.queues["payment"], "worker", NOW) == 1
    assert ledger.lose(dispatch.id, Run(1), "the worker was lost", NOW) is State.FAILED
    assert current(ledger, dispatch).error.endswith("the queue delivers at most once")


def test_only_the_matching_attempt_ends(ledger: Ledger) -> None:
    dispatch = accepted(ledger)
    ledger.claim(dispatch.id, POLICY, "here", NOW)
    others = (Run(2), Run(worker="there"), Run(worker="here", since=NOW + MOMENT), Run(lapsed_at=NOW + LEASE - MOMENT))
    for other in others:
        assert ledger.lose(dispatch.id, other, "lost", NOW) is None
        assert ledger.give_up(dispatch.id, other, "killed", NOW) is None
        assert ledger.retry(dispatch.id, other, POLICY, BROKEN, NOW) is None
        assert ledger.hand_back(dispatch.id, other, NOT_REACHED, NOW) is None
        assert not ledger.stop(dispatch.id, other, NOW)
    assert ledger.stop(dispatch.id, Run(1, "here", NOW, NOW + LEASE), NOW)


def test_one_of_two_reapers_publishes(ledger: Ledger) -> None:
    dispatch = accepted(ledger, published_at=None, due_at=NOW)
    published = ledger.mark_published(dispatch, NOW + MOMENT)
    assert published == replace(dispatch, due_at=None, published_at=NOW + MOMENT)
    assert ledger.mark_published(dispatch, NOW + MOMENT) is None
    ledger.postpone(dispatch.id, NOW + LEASE, NOW)
    assert current(ledger, dispatch) == published, "its publish_at has changed"
    ledger.postpone(dispatch.id, NOW + LEASE)
    assert current(ledger, dispatch).publish_at == NOW + LEASE


def test_cancel_all_cancels_only_queued_dispatches(ledger: Ledger) -> None:
    made = [accepted(ledger) for _ in range(4)]
    ledger.claim(made[0].id, POLICY, "", NOW)
    ledger.cancel(made[1].id, NOW)
    assert set(ledger.cancel_all([each.id for each in made], NOW)) == {made[2].id, made[3].id}
    assert ledger.cancel_all([each.id for each in made], NOW) == []


def test_due_dispatches_are_ordered_and_can_be_skipped(ledger: Ledger) -> None:
    waiting = [accepted(ledger, published_at=None, due_at=NOW - timedelta(seconds=n)) for n in (1, 3, 2)]
    later = accepted(ledger, "payment", published_at=None, due_at=NOW + MOMENT)
    published = [accepted(ledger, published_at=NOW - timedelta(seconds=n)) for n in (1, 3, 2)]
    running = [accepted(ledger) for _ in range(3)]
    for number, dispatch in enumerate(running):
        ledger.claim(dispatch.id, POLICY, "", NOW - LEASE - timedelta(seconds=number))
    expired = [accepted(ledger, "payment", expires_at=NOW - timedelta(seconds=n)) for n in (1, 3, 2)]

    def ids(found: Any) -> list[uuid.UUID]:
        return [getattr(each, "dispatch", each).id for each in found]

    for found, made, order in (
        (ledger.to_publish("bulk", NOW, 2), waiting, (1, 2)),
        (ledger.to_publish("bulk", NOW, 9, [waiting[1].id]), waiting, (2, 0)),
        (ledger.published("bulk", NOW - timedelta(seconds=2), 9), published, (1, 2)),
        (ledger.published("bulk", NOW, 1, [published[1].id]), published, (2,)),
        (ledger.lapsed(NOW, 2), running, (2, 1)),
        (ledger.lapsed(NOW, 9, [running[2].id]), running, (1, 0)),
        (ledger.unwanted(NOW, 2), expired, (1, 2)),
        (ledger.unwanted(NOW, 9, [expired[1].id]), expired, (2, 0)),
    ):
        assert ids(found) == [made[number].id for number in order]
    assert (ledger.due_queues(NOW, 9), ledger.due_queues(NOW + MOMENT, 9)) == ({"bulk"}, {"bulk", "payment"})
    assert list(ledger.queues(State.RUNNING)) == ["bulk"]
    assert ids(ledger.to_publish("payment", NOW + MOMENT, 9)) == [later.id]


def test_more_than_a_few_late_dispatches_hold_up_a_queue(ledger: Ledger) -> None:
    for _ in range(transitions.A_FEW):
        accepted(ledger, published_at=None, due_at=NOW)
    late = NOW + timedelta(seconds=5)
    assert not ledger.holds_up("bulk", late)
    accepted(ledger, published_at=None, due_at=NOW)
    assert ledger.holds_up("bulk", late)
    assert not ledger.holds_up("bulk", NOW)
    assert not ledger.holds_up("payment", late)


def test_depth_and_age_of_a_queue_count_queued_dispatches(ledger: Ledger) -> None:
    assert (ledger.depth("bulk"), ledger.oldest("bulk"), ledger.newest("bulk"), ledger.latest_seal()) == (
        0,
        None,
        None,
        "",
    )
    made = [accepted(ledger, at=NOW - timedelta(minutes=minutes), seal=f"1.{minutes}") for minutes in (3, 2, 1, 0)]
    accepted(ledger, "payment", at=NOW - timedelta(hours=1))
    ledger.claim(made[0].id, POLICY, "", NOW)
    ledger.lose(made[0].id, Run(1), "lost", NOW)
    ledger.claim(made[3].id, POLICY, "", NOW)
    assert (ledger.depth("bulk"), ledger.depth("bulk", 2)) == (3, 2)
    assert (ledger.oldest("bulk"), ledger.newest("bulk")) == (made[1].accepted_at, made[2].accepted_at)
    assert ledger.arrivals("bulk", made[0].accepted_at, made[2].accepted_at) == 2
    assert (ledger.latest_seal(), ledger.count()) == ("1.0", 5)


def test_late_dispatches_are_grouped_by_queue_and_by_worker(ledger: Ledger) -> None:
    early = NOW - timedelta(minutes=1)
    late, back, runs, lapsed = (accepted(ledger, at=early) for _ in range(4))
    accepted(ledger, at=early, published_at=None, due_at=NOW + LEASE)
    for dispatch, at in ((back, NOW), (runs, NOW), (lapsed, NOW - LEASE)):
        ledger.claim(dispatch.id, POLICY, f"worker of {at}", at)
    ledger.hand_back(back.id, Run(1), f"{NOT_REACHED}: 404", NOW)
    assert ledger.late(NOW) == [Group("bulk", 1, late.accepted_at)]
    assert ledger.handed_back() == [Group("bulk", 1, early, f"{NOT_REACHED}: 404")]
    assert ledger.overdue(NOW) == [Group(f"worker of {NOW - LEASE}", 1, NOW)]
    assert ledger.at_work(NOW) == {(f"worker of {NOW}", "bulk")}


def test_dead_letters_are_selected_grouped_and_run_again(ledger: Ledger) -> None:
    dead = [accepted(ledger, at=NOW - timedelta(minutes=minutes)) for minutes in (3, 2, 1)]
    for dispatch, error in zip(dead, ("KeyError", "TypeError", "KeyError"), strict=True):
        ledger.abandon(dispatch.id, error, NOW)
    accepted(ledger)
    selected = Selection(queue="bulk", error="keyerror")
    assert ledger.count_dead_letters(Selection()) == 3
    assert set(ledger.dead_letters(selected)) == {dead[0].id, dead[2].id}
    assert [
        (each.error, each.count, each.first) for each in ledger.dead_letters_by_error(Selection(state="failed"))
    ] == [
        ("KeyError", 2, dead[0].accepted_at),
        ("TypeError", 1, dead[1].accepted_at),
    ]
    assert [each.id for each in ledger.select(Selection(accepted_before=NOW), 2)] == [dead[2].id, dead[1].id]
    assert [ledger.revive(dispatch_id, "ann", NOW) for dispatch_id in ledger.dead_letters(selected)] == [True, True]
    assert ledger.discard(dead[1].id, "ann", NOW)
    assert ledger.count_dead_letters(Selection()) == 0
    assert [ledger.is_revived(each.id) for each in dead] == [True, False, True]


def test_a_recently_revived_dispatch_is_not_forgotten(ledger: Ledger) -> None:
    early = NOW - timedelta(hours=1)
    forgotten, revived, young = accepted(ledger, at=early), accepted(ledger, at=early), accepted(ledger)
    ledger.abandon(revived.id, "nobody knows it", early)
    ledger.revive(revived.id, "ann", NOW)
    assert ledger.forgotten("bulk", NOW - timedelta(minutes=1), 9) == [forgotten.id]
    assert [ledger.last_wanted(each) for each in (forgotten, revived, young)] == [early, NOW, NOW]


def test_old_dispatches_are_deleted(ledger: Ledger) -> None:
    old, former, waiting = accepted(ledger), accepted(ledger, "former"), accepted(ledger)
    for dispatch in (old, former):
        ledger.cancel(dispatch.id, NOW)
    late = NOW + timedelta(days=400)
    assert sum(ledger.keep_house(NOW)) == 0
    assert sum(ledger.keep_house(late)) == 1
    assert sum(ledger.keep_house(late, of_former_queues=True)) == 1
    assert (ledger.count(), ledger.find(waiting.id)) == (1, waiting)


def test_a_failed_transition_emits_nothing(ledger: Ledger) -> None:
    dispatch, received = accepted(ledger), []
    ledger.cancel(dispatch.id, NOW)
    ledger.events.subscribe(received.append)
    with committing(ledger):
        assert not ledger.claim(dispatch.id, POLICY, "", NOW)
        assert not ledger.cancel(dispatch.id, NOW)
        assert not ledger.expire(dispatch.id, NOW)
        assert not ledger.conclude(dispatch.id, 1, POLICY, DONE, now=NOW)
        assert not ledger.revive(dispatch.id, "ann", NOW)
        assert ledger.close(dispatch.id, POLICY, NOW) is None
        assert not ledger.stop(dispatch.id, Run(), NOW)
        assert not ledger.abandon(dispatch.id, "", NOW)
    assert received == []


def test_an_event_has_the_dispatch_and_the_attempt(ledger: Ledger) -> None:
    received: list[Event] = []
    ledger.events.subscribe(received.append)
    with committing(ledger):
        dispatch = accepted(ledger)
        ledger.claim(dispatch.id, POLICY, "", NOW)
        ledger.lose(dispatch.id, Run(1), "lost", NOW)
        ledger.claim(dispatch.id, POLICY, "", NOW)
        ledger.stop(dispatch.id, Run(2), NOW)
    assert [(each.kind, each.attempt, each.dispatch_id) for each in received] == [
        (kind, attempt, dispatch.id)
        for kind, attempt in zip(
            ("accepted", "started", "retrying", "started", "cancelled"), (0, 1, 1, 2, 2), strict=True
        )
    ]
    found = [each.dispatch for each in received if each.dispatch is not None]
    assert {each.id for each in found} == {dispatch.id}
    assert (found[2].state, found[2].attempts) == ("queued", 1)
    assert found[4] == current(ledger, dispatch)


class Dispatches(RuleBasedStateMachine):
    """Workers, clients, operators and the clock act on one dispatch in any order. A small model predicts results."""

    kind = ""

    @initialize(
        expires=st.sampled_from([None, 40.0, 400.0]),
        attempts=st.integers(1, 3),
        delivery=st.sampled_from(["at_least_once", "at_most_once"]),
    )
    def accept(self, expires, attempts, delivery):
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        policy = {"max_attempts": attempts, "delivery": delivery, "retry_backoff": 0}
        self.settings = override_settings(REQUEST_BROKER={"QUEUES": {"bulk": policy}})
        self.settings.enable()
        self.policy, self.ledger = conf.queues["bulk"], KINDS[self.kind]()
        self.received, self.expected = [], [Kind.ACCEPTED]
        self.ledger.events.subscribe(lambda event: self.received.append(event.kind))
        self.lasts = None if expires is None else timedelta(seconds=expires)
        self.end = self.lasts and self.now + self.lasts
        with committing(self.ledger):
            self.dispatch = accepted(self.ledger, at=self.now, expires_at=self.end)
        self.state, self.attempts, self.before, self.lease, self.waits = State.QUEUED, 0, 0, None, False
        self.kept, self.ended, self.wanted, self.handed_back = True, set(), self.now, []

    def teardown(self):
        if hasattr(self, "settings"):
            self.settings.disable()

    @property
    def id(self):
        return self.dispatch.id

    @property
    def left(self):
        return self.attempts - self.before < self.policy.starts

    @property
    def expired(self):
        return self.end is not None and self.end <= self.now

    @property
    def runs(self):
        return self.state is State.RUNNING

    def becomes(self, state, kind=None, *, waits=False):
        self.state, self.waits = state, waits
        self.expected.append(kind or Kind(state))

    def again(self, *, waits):
        self.ended.add(self.attempts)
        self.becomes(State.QUEUED, Kind.RETRYING, waits=waits)

    def do(self, name, *args, **kwargs):
        with committing(self.ledger):
            return getattr(self.ledger, name)(self.id, *args, **kwargs)

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0, 90.0, 91.0, 600.0]))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule()
    def claim(self):
        self.now += MOMENT
        may = self.state is State.QUEUED and not self.expired and (not self.attempts or (self.left and not self.waits))
        assert self.do("claim", self.policy, "worker", self.now) == (self.attempts + 1 if may else 0)
        if may:
            self.attempts, self.lease = self.attempts + 1, self.now + LEASE
            self.becomes(State.RUNNING, Kind.STARTED)

    @precondition(lambda self: self.waits)
    @rule()
    def publish(self):
        published = self.ledger.mark_published(self.dispatch, self.now)
        assert published is not None
        assert self.ledger.mark_published(self.dispatch, self.now) is None
        self.waits = False

    @precondition(lambda self: self.attempts)
    @rule()
    def renew(self):
        assert self.ledger.renew([(self.id, self.attempts)], self.now) == self.runs
        if self.runs:
            self.lease = self.now + LEASE

    @rule(reported=st.booleans())
    def lose(self, reported):
        """The worker reports it, or the reaper finds a lease that has ended."""
        may = self.runs and (reported or self.lease <= self.now)
        expected = (State.QUEUED if self.left else State.FAILED) if may else None
        assert self.do("lose", Run(lapsed_at=None if reported else self.now), "lost", self.now) is expected
        if expected is State.QUEUED:
            self.again(waits=not reported)
        elif expected:
            self.becomes(State.FAILED)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def retry(self, data):
        attempt = data.draw(st.integers(1, self.attempts))
        may = self.runs and attempt == self.attempts and self.left and not self.expired
        assert self.do("retry", Run(attempt), self.policy, BROKEN, self.now) == (self.now if may else None)
        if may:
            self.again(waits=True)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def hand_back(self, data):
        attempt = data.draw(st.integers(1, self.attempts))
        first = min((at for at in self.handed_back if at >= self.wanted), default=self.now)
        may = self.runs and attempt == self.attempts and self.now - first < transitions.DEPLOYMENT
        due = self.do("hand_back", Run(attempt), NOT_REACHED, self.now)
        assert due == (self.now + timedelta(seconds=min(2.0**self.before, 60.0)) if may else None)
        if may:
            self.handed_back.append(self.now)
            self.before += 1
            self.again(waits=True)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), error=st.sampled_from(["", "broken"]))
    def conclude(self, data, error):
        attempt = data.draw(st.integers(1, self.attempts))
        may = self.runs and attempt == self.attempts
        assert self.do("conclude", attempt, self.policy, Outcome(200, error=error), now=self.now) is may
        if may:
            self.kept = bool(error)
            self.becomes(State.FAILED if error else State.SUCCEEDED)

    @rule()
    def give_up(self):
        expected = (State.QUEUED if self.left and not self.expired else State.FAILED) if self.runs else None
        assert self.do("give_up", Run(worker="worker"), "killed", self.now) is expected
        if expected is State.QUEUED:
            self.again(waits=True)
        elif expected:
            self.becomes(State.FAILED)

    @rule()
    def cancel(self):
        if self.state in (State.QUEUED, State.CANCELLED):
            assert self.do("cancel", self.now) is (self.state is State.QUEUED)
            if self.state is State.QUEUED:
                self.becomes(State.CANCELLED)
        else:
            with pytest.raises(DispatchConflictError):
                self.do("cancel", self.now)

    @rule()
    def stop(self):
        assert self.do("stop", Run(self.attempts or None), self.now) is self.runs
        if self.runs:
            self.becomes(State.CANCELLED)

    @rule()
    def abandon(self):
        may = self.state is State.QUEUED
        assert self.do("abandon", "nobody can run it", self.now) is may
        if may:
            self.becomes(State.FAILED)

    @rule()
    def expire(self):
        may = self.state is State.QUEUED and self.expired
        assert self.do("expire", self.now) is may
        if may:
            self.becomes(State.EXPIRED)

    @rule()
    def close(self):
        waiting = self.state is State.QUEUED
        spent = State.FAILED if self.attempts and not self.left else None
        expected = (State.EXPIRED if self.expired else spent) if waiting else None
        assert self.do("close", self.policy, self.now) is expected
        if expected:
            self.becomes(expected)

    @rule()
    def revive(self):
        may = self.state in REVIVABLE and self.kept
        assert self.do("revive", "ann", self.now) is may
        if may:
            self.ended |= {self.attempts} - {0}
            self.before, self.wanted = self.attempts, self.now
            self.end = self.lasts and self.now + self.lasts
            self.becomes(State.QUEUED, Kind.REVIVED, waits=True)

    @rule()
    def discard(self):
        may = self.state in REVIVABLE and self.kept
        assert self.do("discard", "ann", self.now) is may
        self.kept = self.kept and not may

    @invariant()
    def the_ledger_agrees_with_the_model(self):
        sealed = self.ledger.sealed(self.id)
        before, after = self.dispatch, sealed.dispatch
        self.dispatch = after
        revived = before.state in REVIVABLE and after.state is State.QUEUED
        assert after.state is self.state
        assert after.state is before.state or after.state in FOLLOWERS[before.state] or revived
        assert (after.attempts, after.attempts_before) == (self.attempts, self.before)
        assert after.attempts_of_run <= self.policy.starts
        assert set(ended(self.ledger, after)) == self.ended
        assert (after.finished_at is not None) == after.state.done
        assert (after.due_at is not None) == (self.runs or self.waits)
        assert (after.publish_at is not None, after.lease_ends_at) == (self.waits, self.lease if self.runs else None)
        assert (sealed.is_kept, after.expires_at) == (self.kept, self.end)
        assert self.received == self.expected, "each transition emits one event"


@pytest.mark.parametrize(("kind", "examples"), [("memory", 200), ("database", 40)])
def test_any_order_of_transitions_follows_the_states(kind: str, examples: int) -> None:
    machine = type("Machine", (Dispatches,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=15, deadline=None))


def test_a_claim_whose_reply_was_lost_is_found_with_its_event(ledger: Ledger) -> None:
    received: list[Event] = []
    dispatch = accepted(ledger)
    with committing(ledger):
        assert ledger.claim(dispatch.id, POLICY, "worker", NOW, first_asked=NOW) == 1
    ledger.events.subscribe(received.append)
    with committing(ledger):
        assert ledger.claim(dispatch.id, POLICY, "worker", NOW + LEASE, first_asked=NOW) == 1
        assert ledger.claim(dispatch.id, POLICY, "worker", NOW + LEASE, first_asked=NOW + MOMENT) == 0
    assert [(each.kind, each.attempt) for each in received] == [("started", 1)]
    assert current(ledger, dispatch).lease_ends_at == NOW + 2 * LEASE


@pytest.mark.parametrize("outcome", [DONE, BROKEN])
def test_an_end_whose_reply_was_lost_is_found_with_its_event(ledger: Ledger, outcome: Outcome) -> None:
    received: list[Event] = []
    dispatch = accepted(ledger)
    ledger.claim(dispatch.id, POLICY, "worker", NOW)
    again = {"now": NOW + LEASE, "first_asked": NOW}
    assert ledger.conclude(dispatch.id, 1, POLICY, outcome, "sealed", now=NOW, first_asked=NOW)
    ledger.events.subscribe(received.append)
    with committing(ledger):
        assert ledger.conclude(dispatch.id, 1, POLICY, outcome, "sealed", **again)
        assert not ledger.conclude(dispatch.id, 1, POLICY, outcome, "sealed", first_asked=NOW + MOMENT)
        assert not ledger.conclude(dispatch.id, 2, POLICY, outcome, "sealed", **again)
        assert not ledger.conclude(dispatch.id, 1, POLICY, Outcome(500, error="other"), "sealed", **again)
        assert not ledger.conclude(dispatch.id, 1, POLICY, outcome, "sealed", now=NOW)
    assert [(each.kind, each.attempt) for each in received] == [(outcome.state, 1)]
    assert ledger.response(current(ledger, dispatch)) == "sealed"


@pytest.mark.parametrize("handed_back", [True, False])
def test_a_retry_whose_reply_was_lost_is_found_with_its_event(ledger: Ledger, handed_back: bool) -> None:
    def end(first_asked: datetime | None, attempt: int = 1) -> datetime | None:
        if handed_back:
            return ledger.hand_back(dispatch.id, Run(attempt), NOT_REACHED, NOW, first_asked=first_asked)
        return ledger.retry(dispatch.id, Run(attempt), POLICY, BROKEN, NOW, first_asked=first_asked)

    received: list[Event] = []
    dispatch = accepted(ledger)
    ledger.claim(dispatch.id, POLICY, "worker", NOW)
    due = end(NOW)
    assert due is not None
    ledger.events.subscribe(received.append)
    with committing(ledger):
        assert end(NOW) == due
        assert end(NOW + MOMENT) is end(NOW, attempt=2) is end(None) is None
    assert [(each.kind, each.attempt) for each in received] == [("retrying", 1)]


def test_an_id_that_is_given_twice_counts_once(ledger: Ledger) -> None:
    received: list[Event] = []
    waits, runs = accepted(ledger), accepted(ledger)
    ledger.claim(runs.id, POLICY, "worker", NOW)
    ledger.events.subscribe(received.append)
    with committing(ledger):
        assert ledger.cancel_all([waits.id, waits.id], NOW) == [waits.id]
    assert ledger.renew([(runs.id, 1), (runs.id, 1)], NOW) == 1
    assert [each.dispatch_id for each in received] == [waits.id]


def test_an_attempt_that_is_given_up_without_a_word_has_failed(ledger: Ledger) -> None:
    dispatch = accepted(ledger, "payment")
    ledger.claim(dispatch.id, POLICY, "worker", NOW)
    assert ledger.give_up(dispatch.id, Run(1), "", NOW) is State.FAILED
    failed = current(ledger, dispatch)
    assert (failed.state, bool(failed.error)) == ("failed", True)
    sealed = ledger.sealed(dispatch.id)
    assert sealed is not None
    assert sealed.is_kept


def test_an_empty_filter_selects_all(ledger: Ledger) -> None:
    dispatch = accepted(ledger)
    assert ledger.select(Selection(queue="", state="", route="", error=""), 9) == [dispatch]
