from __future__ import annotations

from collections import Counter

from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from workers.consuming.scheduling import WeightedCycle

WEIGHTS = st.lists(st.integers(1, 20), min_size=1, max_size=4)


def configured(weights):
    queues = {f"q{number}": {"weight": weight} for number, weight in enumerate(weights)}
    return override_settings(REQUEST_BROKER={"QUEUES": queues}), list(queues)


def served(cycle, rounds, busy=None):
    """Returns the queues that are served while the queues in `busy` have work; all by default."""
    for _ in range(rounds):
        queue = next(name for name in cycle.consume(None) if busy is None or name in busy)
        cycle.rotate(queue)
        yield queue


@given(WEIGHTS, st.integers(1, 3))
def test_under_saturation_whole_rounds_share_exactly_by_weight(weights, rounds):
    setting, names = configured(weights)
    with setting:
        counts = Counter(served(WeightedCycle(names), sum(weights) * rounds))
    assert counts == {name: weight * rounds for name, weight in zip(names, weights, strict=True)}


def test_the_shipped_weights_interleave():
    with override_settings(REQUEST_BROKER={}):
        order = "".join(name[0] for name in served(WeightedCycle(["payment", "realtime", "bulk"]), 10))
    assert order == "prpprpbprp"


@given(WEIGHTS.filter(lambda weights: len(weights) > 1), st.data())
def test_an_idle_queue_is_served_at_once_but_at_most_one_round_in_a_row(weights, data):
    setting, names = configured(weights)
    total = sum(weights)
    idle = data.draw(st.sampled_from(names))
    with setting:
        cycle = WeightedCycle(names)
        list(served(cycle, total * 8, busy=set(names) - {idle}))
        order = list(served(cycle, total + 1))
    assert idle in order[:2]
    assert set(order) != {idle}


@given(WEIGHTS, st.data())
def test_no_queue_starves_after_any_history(weights, data):
    setting, names = configured(weights)
    total = sum(weights)
    with setting:
        cycle = WeightedCycle(names)
        for _ in range(data.draw(st.integers(0, 4))):
            busy = data.draw(st.sets(st.sampled_from(names), min_size=1))
            list(served(cycle, data.draw(st.integers(0, 2 * total)), busy))
        since = dict.fromkeys(names, 0)
        for queue in served(cycle, 6 * total):
            since = {name: since[name] + 1 for name in names} | {queue: 0}
            assert max(since.values()) <= 2 * total


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcde")), st.integers(0, 9)), max_size=8))
def test_changed_queues_keep_their_credit(changes):
    cycle = WeightedCycle()
    for queues, rounds in changes:
        cycle.update(queues)
        assert set(cycle.consume(len(queues))) == queues
        if queues:
            assert set(served(cycle, rounds)) <= queues
    assert len(cycle.consume(2)) <= 2


@given(WEIGHTS.filter(lambda weights: len(weights) > 1), st.data())
def test_busy_queues_share_by_weight_while_another_is_empty(weights, data):
    setting, names = configured(weights)
    busy = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    shares = {name: weight for name, weight in zip(names, weights, strict=True) if name in busy}
    total = sum(shares.values())
    with setting:
        cycle = WeightedCycle(names)
        list(served(cycle, 4 * sum(weights), busy))
        counts = Counter(served(cycle, total, busy))
    assert all(abs(counts[name] - share) <= 1 for name, share in shares.items())


def test_a_queue_keeps_its_turn_when_another_is_added():
    with override_settings(REQUEST_BROKER={}):
        cycle = WeightedCycle(["realtime", "bulk"])
        assert list(served(cycle, 1)) == ["realtime"]
        before = list(cycle.consume(None))
        cycle.update(["realtime", "bulk"])
        assert cycle.consume(None) == before


def test_a_queue_of_another_project_has_a_weight_of_one():
    with override_settings(REQUEST_BROKER={"QUEUES": {"payment": {"weight": 3, "celery_queue": "money"}}}):
        assert Counter(served(WeightedCycle(["money", "celery"]), 8)) == {"money": 6, "celery": 2}


def test_a_queue_that_is_no_longer_served_changes_nothing():
    cycle = WeightedCycle(["payment", "bulk"])
    before = cycle.consume(None)
    cycle.rotate("gone")
    assert cycle.consume(None) == before


def test_new_weights_take_effect_soon():
    cycle = WeightedCycle()
    with override_settings(REQUEST_BROKER={"QUEUES": {"bulk": {"weight": 1000}}}):
        cycle.update(["payment", "bulk"])
        list(served(cycle, 500))
    with override_settings(REQUEST_BROKER={"QUEUES": {"payment": {"weight": 1}}}):
        cycle.update(["payment", "bulk"])
        assert Counter(served(cycle, 20))["bulk"] in range(9, 12)


def test_the_tried_order_counts_even_if_weights_change_before_a_task_arrives():
    """Redis gets the order, and answers when there is work."""
    cycle = WeightedCycle(["payment", "bulk"])
    with override_settings(REQUEST_BROKER={"QUEUES": {"bulk": {"weight": 1000}}}):
        assert cycle.consume(2) == ["payment", "bulk"]
        cycle.update(["payment", "bulk"])
        cycle.rotate("payment")
        assert Counter(served(cycle, 1005)) == {"payment": 5, "bulk": 1000}, "the first payment is paid for"


def test_without_queues_there_is_nothing_to_consume():
    assert WeightedCycle().consume(5) == []
