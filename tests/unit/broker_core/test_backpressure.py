from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.backpressure import (
    LONGEST,
    NOTHING_DRAINS,
    SHED,
    SHORTEST,
    Load,
    follow,
    pressure,
    retry_after,
    thresholds,
    verdict,
)
from broker_core.policies import QueuePolicy

NOW = datetime(2030, 5, 17, 12, 0, tzinfo=UTC)

depths = st.integers(0, 1_000_000)
ages = st.floats(0, 1e6)
rates = st.none() | st.floats(0, 1e5)
loads = st.builds(Load, depths, ages, st.just(NOW), measured=rates)
limited = st.builds(
    QueuePolicy,
    weight=st.integers(1, 9),
    max_depth=st.none() | st.integers(0, 100_000),
    max_age=st.none() | st.floats(0, 1e5),
)


def load(depth: int, age: float = 0.0, drain: float | None = None) -> Load:
    return Load(depth, age, NOW, measured=drain)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 0.0),
        ({"max_depth": 100}, 0.5),
        ({"max_age": 10.0}, 2.0),
        ({"max_depth": 100, "max_age": 10.0}, 2.0),
        ({"max_depth": 0}, math.inf),
    ],
)
def test_the_pressure_is_the_larger_part_of_a_limit(limits, expected):
    assert pressure(QueuePolicy(**limits), load(50, 20)) == expected


QUEUES = {
    "payment": QueuePolicy(weight=6, max_depth=10),
    "realtime": QueuePolicy(weight=3),
    "bulk-eu": QueuePolicy(weight=1, max_age=60),
    "bulk-us": QueuePolicy(weight=1, max_age=60),
}


def test_only_its_own_limit_and_those_of_higher_classes_apply_to_a_queue():
    assert thresholds("payment", QUEUES) == {"payment": 1.0}
    assert thresholds("realtime", QUEUES) == {"payment": SHED}
    assert thresholds("bulk-eu", QUEUES) == {"payment": SHED, "bulk-eu": 1.0}
    assert thresholds("realtime", {"realtime": QueuePolicy(weight=3)}) == {}


def test_a_queue_takes_more_up_to_its_limit():
    assert verdict("payment", QUEUES, {"payment": load(9)}) is None
    assert verdict("payment", QUEUES, {"payment": load(10)}).queue == "payment"
    assert verdict("bulk-eu", QUEUES, {"bulk-eu": load(1, 59.9)}) is None
    assert verdict("bulk-eu", QUEUES, {"bulk-eu": load(1, 60)}).queue == "bulk-eu"


def test_lower_classes_are_refused_before_higher_ones():
    assert verdict("bulk-eu", QUEUES, {"payment": load(7)}) is None
    assert verdict("bulk-eu", QUEUES, {"payment": load(8)}).queue == "payment"
    assert verdict("realtime", QUEUES, {"payment": load(8)}).queue == "payment"
    assert verdict("payment", QUEUES, {"payment": load(8)}) is None


def test_an_unknown_load_refuses_nothing():
    assert verdict("bulk-eu", QUEUES, {}) is None


def test_of_two_refusals_the_longer_one_counts():
    both = {"payment": load(18, drain=1.0), "bulk-eu": load(100, 120, drain=0.5)}
    assert verdict("bulk-eu", QUEUES, both).queue == "bulk-eu"
    assert verdict("bulk-eu", QUEUES, {**both, "payment": load(5_000, drain=1.0)}).queue == "payment"


@given(limited, loads)
def test_more_weight_is_never_refused_sooner(policy, found):
    queues = {"full": policy, "low": QueuePolicy(weight=1), "full too": policy}
    known = {"full": found}
    if verdict("full", queues, known) is not None and policy.weight > 1:
        assert verdict("low", queues, known) is not None
    assert verdict("full too", queues, known) is None, "pools of one weight do not concern each other"


@pytest.mark.parametrize(
    ("depth", "drain", "seconds"),
    [(100, 1.0, 1), (109, 1.0, 10), (109, 4.0, 3), (100, 0.05, 20), (10_000_000, 0.5, LONGEST), (100, 1000.0, 1)],
)
def test_a_client_is_asked_back_when_there_is_room_again(depth, drain, seconds):
    assert retry_after(QueuePolicy(max_depth=100), load(depth, 1, drain)) == seconds


def test_a_lower_class_is_asked_back_when_the_higher_one_is_below_its_part():
    assert retry_after(QueuePolicy(max_depth=100), load(100, 1, 1.0), SHED) == 21


def test_while_nothing_drains_the_retry_after_is_fixed():
    assert retry_after(QueuePolicy(max_depth=100), load(200, 60, 0.0)) == NOTHING_DRAINS
    assert retry_after(QueuePolicy(max_depth=0), load(0, 0, 5.0)) == NOTHING_DRAINS


def test_one_sample_is_estimated_by_littles_law():
    assert load(50, 100).drain == 0.5
    assert load(50, 0).drain == 0.0
    assert retry_after(QueuePolicy(max_depth=100), load(109, 109)) == 10


def test_the_oldest_are_gone_when_those_in_between_have_grown_older():
    """60 wait, accepted one per second; two leave per second: after t seconds the oldest is 60 - t seconds old."""
    assert retry_after(QueuePolicy(max_age=50.0), load(60, 60, 2.0)) == 10
    assert retry_after(QueuePolicy(max_age=50.0), load(60, 60, 1.0)) == 60, "not before all have left"


@given(limited, loads, st.sampled_from([SHED, 1.0]))
def test_a_retry_after_is_bounded(policy, found, threshold):
    assert SHORTEST <= retry_after(policy, found, threshold) <= LONGEST


@given(st.integers(1, 1_000), st.integers(0, 5_000), st.floats(0.01, 1_000))
def test_after_the_retry_after_the_queue_accepts_requests(limit, beyond, drain):
    policy, found = QueuePolicy(max_depth=limit), load(limit + beyond, 1, drain)
    seconds = retry_after(policy, found)
    left = found.depth - seconds * drain
    assert seconds == LONGEST or pressure(policy, load(max(math.ceil(left - 1e-6), 0))) < 1


@given(depths, depths, st.integers(0, 1_000_000), st.floats(0.001, 1e4), rates)
def test_a_drain_rate_is_never_negative_and_lies_between_old_and_new(before, after, accepted, elapsed, known):
    first = load(before, drain=known)
    now = replace(load(after), at=NOW + timedelta(seconds=elapsed))
    drained = max(accepted - (after - before), 0) / (now.at - NOW).total_seconds()
    low, high = sorted((drained, drained if known is None else known))
    assert low - 1e-6 * (1 + high) <= follow(first, now, accepted).measured <= high + 1e-6 * (1 + high)


def test_two_samples_give_the_drain_rate():
    later = replace(load(90, 30), at=NOW + timedelta(seconds=10))
    assert follow(load(100, 20), later, arrivals=40).measured == 5.0


def test_a_change_is_followed_smoothly():
    found = load(100, drain=10.0)
    for second in range(1, 31):
        found = follow(found, replace(load(100), at=NOW + timedelta(seconds=second)), arrivals=0)
    assert 0.0 < found.measured < 1.0


def test_unusable_samples_change_nothing():
    known = replace(load(100, drain=3.0), capped=True)
    later = replace(load(100), at=NOW + timedelta(seconds=1), capped=True)
    assert follow(known, later, arrivals=50).measured == 3.0
    assert follow(known, replace(load(5), at=NOW), arrivals=0).measured == 3.0
    assert follow(known, replace(load(5), at=NOW - timedelta(hours=1)), arrivals=0).measured == 3.0
