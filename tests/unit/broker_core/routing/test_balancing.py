from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.routing.balancing import apportion, choose, shares

VISITORS = [f"visitor-{number}" for number in range(100_000)]
SOME = VISITORS[:2_000]
names = st.integers(0, 999).map(str)
weights = st.dictionaries(names, st.integers(1, 20), min_size=1, max_size=6)


def chosen(entries, visitors=SOME, salt="checkout"):
    return [choose(entries, visitor, salt) for visitor in visitors]


@pytest.mark.parametrize("entries", [{"a": 3, "b": 1}, {1: 6, 2: 3, 3: 1}])
def test_shares_follow_weights(entries):
    found = chosen(entries, VISITORS)
    for name, share in shares(entries).items():
        assert found.count(name) / len(VISITORS) == pytest.approx(share, abs=0.01)


@given(weights, st.randoms())
def test_the_order_of_the_rows_does_not_matter(entries, random):
    shuffled = list(entries.items())
    random.shuffle(shuffled)
    assert chosen(entries, SOME[:50]) == chosen(dict(shuffled), SOME[:50])


@given(weights, names, st.integers(1, 20))
def test_a_new_destination_takes_only_what_it_gains(entries, name, weight):
    more = {**entries, name: entries.get(name, 0) + weight}
    for before, after in zip(chosen(entries, SOME[:200]), chosen(more, SOME[:200]), strict=True):
        assert after in {before, name}


@given(weights)
def test_a_removed_destination_gives_away_only_its_own(entries):
    removed = min(entries)
    less = {name: weight for name, weight in entries.items() if name != removed}
    for before, after in zip(chosen(entries, SOME[:200]), chosen(less, SOME[:200]), strict=True):
        assert after == before if before != removed else after != removed


def test_another_router_chooses_independently():
    entries = {"a": 1, "b": 1}
    same = [one == other for one, other in zip(chosen(entries), chosen(entries, salt="catalogue"), strict=True)]
    assert sum(same) / len(same) == pytest.approx(0.5, abs=0.05)


def test_another_process_chooses_the_same():
    code = "from broker_core.routing.balancing import choose; "
    code += "print([choose({'a': 2, 'b': 3}, str(n), 's') for n in range(50)])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str([choose({"b": 3, "a": 2}, str(number), "s") for number in range(50)])


@pytest.mark.parametrize("entries", [{}, {"a": 0}, {"a": 0, "b": 0}])
def test_nothing_is_chosen_if_everything_is_drained(entries):
    assert choose(entries, "anyone", "salt") is None
    assert set(shares(entries).values()) <= {0.0}


def test_a_drained_destination_is_never_chosen():
    assert set(chosen({"a": 0, "b": 1})) == {"b"}


@given(st.dictionaries(names, st.integers(0, 50), max_size=8), st.integers(0, 40))
def test_all_seats_are_given_and_each_weight_gets_one(entries, seats):
    given_seats = apportion(entries, seats)
    entitled = [name for name, weight in entries.items() if weight > 0]
    assert given_seats.keys() == entries.keys()
    assert sum(given_seats.values()) == (seats if entitled else 0)
    assert all(given_seats[name] == 0 for name in entries if name not in entitled)
    if seats >= len(entitled):
        assert all(given_seats[name] >= 1 for name in entitled)


@given(st.dictionaries(names, st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 40))
def test_more_weight_never_means_fewer_seats(entries, seats):
    given_seats = apportion(entries, seats)
    for one in entries:
        for other in entries:
            if entries[one] > entries[other]:
                assert given_seats[one] >= given_seats[other]


@pytest.mark.parametrize(
    ("entries", "seats", "expected"),
    [
        ({"bulk-eu": 3, "bulk-us": 1}, 4, {"bulk-eu": 3, "bulk-us": 1}),
        ({"bulk-eu": 3, "bulk-us": 1}, 2, {"bulk-eu": 1, "bulk-us": 1}),
        ({"bulk-eu": 3, "bulk-us": 1}, 1, {"bulk-eu": 1, "bulk-us": 0}),
        ({"a": 1, "b": 1, "c": 1}, 4, {"a": 2, "b": 1, "c": 1}),
        ({"a": 98, "b": 1, "c": 1}, 4, {"a": 2, "b": 1, "c": 1}),
        ({}, 4, {}),
    ],
)
def test_seats_by_the_largest_remainder(entries, seats, expected):
    assert apportion(entries, seats) == expected
