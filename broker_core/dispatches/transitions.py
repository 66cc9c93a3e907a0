"""What every ledger decides in the same way: when there is another attempt, and until when a dispatch is wanted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from broker_core.retries import pause

if TYPE_CHECKING:
    from broker_core.dispatches.dispatch import Dispatch, Outcome
    from broker_core.policies import QueuePolicy

LEASE_MARGIN = timedelta(seconds=30)
"""For how much longer than its time limit a replay holds its lease: the time to stop it and to store its outcome."""

DEPLOYMENT = timedelta(minutes=15)
"""How old a dispatch is that no worker can be expected to run later. A younger one may have been accepted by a process
with newer code, keys or settings than this worker has.
"""

LONGEST_HAND_BACK = 60.0
"""Seconds until a dispatch that was handed back is published again: one at first, and twice as many each time."""

A_FEW = 10
"""How many dispatches may wait in the ledger for longer than the reapers need: somebody else may have locked a row."""


def next_attempt(dispatch: Dispatch, policy: QueuePolicy, outcome: Outcome, now: datetime) -> datetime | None:
    """When the next attempt after a failed one is due; None if there is to be none, or nobody would want it by then."""
    seconds = pause(policy, dispatch.attempts_of_run, outcome.retry_after) if outcome.retriable else None
    if seconds is None:
        return None
    due = now + timedelta(seconds=seconds)
    return None if dispatch.is_over(due) else due


def hand_back_until(dispatch: Dispatch, now: datetime) -> datetime:
    """When a dispatch that is handed back is published again."""
    return now + timedelta(seconds=min(2.0 ** min(dispatch.attempts_before, 10), LONGEST_HAND_BACK))


def may_start_again(dispatch: Dispatch, policy: QueuePolicy | None) -> bool:
    """Whether a lost attempt is followed by another. A queue without a policy is not configured any more."""
    return dispatch.attempts_of_run < (policy.starts if policy else 1)


def why_lost(reason: str, policy: QueuePolicy | None) -> str:
    """The error of a dispatch whose last attempt was lost."""
    if policy is not None and policy.delivery == "at_most_once":
        return f"{reason}; it is not run again, for the queue delivers at most once"
    return reason


def wanted_until(dispatch: Dispatch, last_wanted: datetime, now: datetime) -> datetime | None:
    """When a revived dispatch expires: it is wanted for as long as at first, however often it is revived."""
    return None if dispatch.expires_at is None else now + (dispatch.expires_at - last_wanted)


def drop_response_at(outcome: Outcome, response: str | None, policy: QueuePolicy, now: datetime) -> datetime | None:
    """When the stored response is dropped; None if there is none."""
    return None if response is None or outcome.status is None else now + timedelta(seconds=policy.results_ttl)
