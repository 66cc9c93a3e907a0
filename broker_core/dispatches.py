"""The states of a dispatch, and which may follow which."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an accepted request is on its way."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def done(self) -> bool:
        return not FOLLOWERS[self]


FOLLOWERS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED, State.FAILED}),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}
"""After RUNNING comes QUEUED when the attempt failed and is to be repeated, or when its worker was lost. After QUEUED
comes FAILED when nobody can run it any more.
"""

REVIVABLE = frozenset({State.FAILED, State.EXPIRED})
"""The states from which somebody in charge may have a dispatch run again; nothing else leaves a state that is done."""


def sources(state: State) -> tuple[State, ...]:
    """The states that `state` may follow."""
    return tuple(before for before, after in FOLLOWERS.items() if state in after)
