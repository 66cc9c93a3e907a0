from __future__ import annotations

import threading
import uuid

import pytest
from django.db import InterfaceError

from broker_core.dispatches.events import Event, Kind
from broker_core.policies import QueuePolicy
from workers.replaying import leases as module
from workers.replaying.leases import Leases

POLICY = QueuePolicy(time_limit=60)


@pytest.fixture
def renewed(monkeypatch, settings):
    """Yields each renewal; the next one waits until the test has read it."""
    settings.REQUEST_BROKER = {"LEASE": 0.03}
    seen: list[set[tuple[uuid.UUID, int]]] = []
    more = threading.Condition()

    def renew(claims):
        with more:
            seen.append(set(claims))
            more.notify_all()
        if len(seen) == 2:
            raise InterfaceError("the connection was cut")

    monkeypatch.setattr(module.ledger, "renew", renew)

    def wait(condition):
        with more:
            assert more.wait_for(lambda: condition(seen), timeout=30)

    return wait


def test_a_lease_is_renewed_repeatedly_also_after_a_failure(renewed):
    leases, claim = Leases(), (uuid.uuid4(), 3)
    with leases.held(claim[0], POLICY, claim[1]):
        renewed(lambda seen: len(seen) >= 4)
        renewed(lambda seen: all(each == {claim} for each in seen))


def test_leases_are_renewed_together_and_only_while_their_views_run(renewed):
    leases, first, second = Leases(), (uuid.uuid4(), 1), (uuid.uuid4(), 2)
    with leases.held(first[0], POLICY, first[1]):
        with leases.held(second[0], POLICY, second[1]):
            renewed(lambda seen: {first, second} in seen)
        renewed(lambda seen: seen[-1] == {first})


def test_a_claim_is_not_renewed_beyond_its_time_limit_and_a_margin(monkeypatch):
    renewed = []
    monkeypatch.setattr(module.ledger, "renew", lambda claims: renewed.append(list(claims)))
    leases = Leases()
    claim = module.Claim(uuid.uuid4(), 1, since=0.0, until=100.0)
    leases._claims.add(claim)
    for moment in (1.0, 10.0, 99.0, 100.0):
        leases._renew(moment, step=10.0)
    assert len(renewed) == 2, "neither at once nor when its time is over"


def test_two_copies_of_a_message_in_one_process_do_not_disturb_each_other(renewed):
    leases, dispatch_id, began, ended = Leases(), uuid.uuid4(), threading.Event(), threading.Event()

    def lose() -> None:
        with leases.held(dispatch_id, POLICY):
            began.set()
            assert ended.wait(30)

    other = threading.Thread(target=lose)
    other.start()
    assert began.wait(30)
    with leases.held(dispatch_id, POLICY):
        leases.on_event(Event(Kind.STARTED, dispatch_id, lambda _: None, 1))
        ended.set()
        other.join(30)
        renewed(lambda seen: {(dispatch_id, 1)} in seen)
    assert not leases._claims


def test_a_claim_of_another_dispatch_or_outside_of_a_task_is_not_renewed():
    leases, dispatch_id = Leases(), uuid.uuid4()
    leases.on_event(Event(Kind.STARTED, dispatch_id, lambda _: None, 1))
    with leases.held(dispatch_id, POLICY):
        leases.on_event(Event(Kind.STARTED, uuid.uuid4(), lambda _: None, 1))
        leases.on_event(Event(Kind.RETRYING, dispatch_id, lambda _: None, 1))
        assert not leases._claims
