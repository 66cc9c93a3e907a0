from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.policies import QueuePolicy, policies_from
from broker_core.pools import plan_for, pool_factors
from broker_core.routing import Action, Destination, Router
from broker_core.routing.sources import Source

REGIONS = {"eu": 3, "us": 1}


def policies(**entries):
    return {name: QueuePolicy.from_mapping(name, entry) for name, entry in entries.items()}


def queue_router(code="regions", action=Action.QUEUE, **weights):
    destinations = tuple(Destination(name, name, weight) for name, weight in weights.items())
    return Router(code, Source.parse(f"/{code}/"), action, destinations)


def plan(entries, processes, *routers, ordered=True):
    queues = policies(**entries)
    return plan_for(queues, pool_factors(routers, queues), processes, ordered=ordered)


def test_without_pools_all_processes_are_shared_by_the_weights_of_the_policies():
    made = plan({"payment": {"weight": 6}, "bulk": {}}, 4)
    assert (made.shared, made.dedicated, made.weights) == (4, {}, {"payment": 6, "bulk": 1})


def test_processes_are_apportioned_to_pools_by_the_weights_of_their_destinations():
    assert plan({"eu": {}, "us": {}}, 8, queue_router(**REGIONS)).dedicated == {"eu": 6, "us": 2}


def test_other_queues_keep_the_share_that_their_policies_give_them():
    made = plan({"payment": {"weight": 6}, "eu": {}, "us": {}}, 8, queue_router(**REGIONS))
    assert (made.dedicated, made.shared) == ({"eu": 1, "us": 1}, 6)


def test_the_scale_of_the_weights_in_rows_is_nothing_to_other_queues():
    entries = {"payment": {"weight": 6}, "eu": {}, "us": {}}
    assert plan(entries, 8, queue_router(eu=3, us=1)) == plan(entries, 8, queue_router(eu=3_000, us=1_000))


def test_each_pool_and_the_rest_have_one_process_at_least():
    made = plan({"payment": {}, "eu": {}, "us": {}}, 3, queue_router(eu=99, us=1))
    assert (made.dedicated, made.shared) == ({"eu": 1, "us": 1}, 1)


def test_with_too_few_processes_all_are_shared():
    made = plan({"payment": {}, "eu": {}, "us": {}}, 2, queue_router(**REGIONS))
    assert (made.dedicated, made.shared) == ({}, 2)
    assert made.weights == {"payment": 1, "eu": 1.5, "us": 0.5}


def test_dispatches_left_by_a_drained_pool_are_served_by_shared_processes():
    made = plan({"eu": {}, "us": {}}, 4, queue_router(eu=3, us=0))
    assert (made.dedicated, made.shared) == ({"eu": 3}, 1)


@pytest.mark.parametrize(
    "router",
    [
        queue_router(eu=1),
        queue_router(eu=1, payment=1),
        queue_router(eu=1, gone=1),
        queue_router(eu=0, us=0),
        queue_router(action=Action.FOUND, **REGIONS),
    ],
    ids=["one queue", "queues of two classes", "an unknown queue", "all drained", "a redirect"],
)
def test_queues_that_are_no_pools_of_one_class_are_shared(router):
    assert plan({"payment": {"weight": 6}, "eu": {}, "us": {}}, 8, router).dedicated == {}


def test_a_queue_of_two_routers_gets_the_mean():
    queues = policies(eu={}, us={}, asia={})
    factors = pool_factors([queue_router(eu=3, us=1), queue_router("other", eu=1, asia=1)], queues)
    assert factors == {"eu": 1.25, "us": 0.5, "asia": 1}


def test_without_ordered_queues_each_queue_has_its_own_processes():
    shipped = policies_from({"payment": {"reserve": 3}})
    unordered = plan_for(shipped, {}, 10, ordered=False)
    assert (unordered.dedicated, unordered.shared) == ({"payment": 6, "realtime": 3, "bulk": 1}, 0)


def test_without_ordered_queues_a_reserve_comes_from_the_largest_share():
    made = plan({"payment": {"reserve": 3}, "bulk": {"weight": 9}}, 6, ordered=False)
    assert made.dedicated == {"payment": 3, "bulk": 3}


def test_a_reserve_comes_before_pools():
    entries = {"payment": {"weight": 6, "reserve": 1}, "eu": {}, "us": {}, "asia": {}}
    three = queue_router(eu=1, us=1, asia=1)
    few = plan(entries, 4, three)
    assert (few.dedicated, few.reserved) == ({}, {"payment": 1})
    enough = plan(entries | {name: {"weight": 20} for name in ("eu", "us", "asia")}, 5, three)
    assert (enough.dedicated, enough.reserved) == ({"eu": 1, "us": 1, "asia": 1}, {"payment": 1})


def test_the_text_of_a_plan():
    made = plan({"payment": {"weight": 6, "reserve": 1}, "eu": {}, "us": {}}, 8, queue_router(**REGIONS))
    assert str(made) == "8 processes: 1 for eu; 1 for us; 6 shared, 1 of them reserved for payment"
    assert str(plan({"eu": {}, "us": {}}, 4, queue_router(**REGIONS))) == "4 processes: 3 for eu; 1 for us"


# Queues that may start a task


def test_a_reserved_process_is_left_by_slower_queues_and_by_equals_but_not_by_faster_ones():
    made = plan(
        {"payment": {"weight": 6}, "realtime": {"weight": 3, "reserve": 1}, "chat": {"weight": 3}, "bulk": {}}, 4
    )
    room = {name: made.has_room(name, {"payment": 1, "bulk": 2}) for name in made.weights}
    assert room == {"payment": True, "realtime": True, "chat": False, "bulk": False}


def test_a_reserved_process_in_use_is_not_kept_twice():
    made = plan({"payment": {"weight": 6, "reserve": 1}, "bulk": {}}, 4)
    assert made.has_room("bulk", {"payment": 1, "bulk": 2})


def test_one_process_is_always_open_to_all():
    made = plan({"payment": {"weight": 6, "reserve": 9}, "bulk": {}}, 2)
    assert made.reserved == {"payment": 1}
    assert plan({"payment": {"weight": 6, "reserve": 9}, "bulk": {}}, 1).has_room("bulk", {})


def test_an_unplanned_queue_leaves_reserved_processes_free():
    made = plan({"payment": {"weight": 6, "reserve": 1}, "bulk": {}}, 2)
    assert made.has_room("project", {})
    assert not made.has_room("project", {"project": 1})


ENTRIES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.fixed_dictionaries({"weight": st.integers(1, 9), "reserve": st.integers(0, 3)}),
    min_size=1,
)


@given(ENTRIES, st.integers(1, 12), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9)), st.data())
def test_no_process_is_over_committed_and_none_is_left_idle_while_all_have_work(entries, processes, weights, data):
    made = plan(entries, processes, queue_router(**weights))
    assert made.shared >= 0
    assert all(number > 0 for number in made.dedicated.values())
    running = Counter()
    while able := [name for name in made.weights if made.has_room(name, running)]:
        running[data.draw(st.sampled_from(able))] += 1
        assert running.total() <= processes or not made.guaranteed
        if not made.guaranteed:
            break
    if made.guaranteed:
        assert running.total() == processes
        assert all(running[name] >= number for name, number in made.dedicated.items())


@given(ENTRIES, st.integers(1, 12), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9)))
def test_every_queue_has_a_process_to_run_on(entries, processes, weights):
    made = plan(entries, processes, queue_router(**weights))
    assert all(made.has_room(name, {}) for name in made.weights)
    assert made.shared or set(made.dedicated) == set(made.weights)
