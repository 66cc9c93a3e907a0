from __future__ import annotations

import pytest

from broker_core.dispatches import FOLLOWERS, REVIVABLE, State, sources


def test_every_state_has_followers_or_is_done():
    assert set(FOLLOWERS) == set(State)
    assert {state for state in State if state.done} == {
        State.SUCCEEDED,
        State.FAILED,
        State.CANCELLED,
        State.EXPIRED,
    }


def test_every_state_can_be_reached_from_the_first():
    reached = {State.QUEUED}
    while following := {after for before in reached for after in FOLLOWERS[before]} - reached:
        reached |= following
    assert reached == set(State)


@pytest.mark.parametrize("state", State)
def test_sources_and_followers_agree(state):
    assert set(sources(state)) == {before for before in State if state in FOLLOWERS[before]}
    assert not any(before.done for before in sources(state))


def test_a_running_dispatch_can_be_cancelled_but_does_not_expire():
    assert sources(State.CANCELLED) == (State.QUEUED, State.RUNNING)
    assert sources(State.EXPIRED) == (State.QUEUED,)


def test_only_final_states_can_be_revived():
    assert all(state.done for state in REVIVABLE)
