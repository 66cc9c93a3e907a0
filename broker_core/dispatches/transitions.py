"""Rules that all ledgers share: whether another attempt follows, and when a dispatch expires."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from broker_core.retries import pause

if TYPE_CHECKING:
    from broker_core.dispatches.dispatch import Dispatch, Outcome
    from broker_core.policies import QueuePolicy

LEASE_MARGIN = timedelta(seconds=30)
"""How much longer than its time limit a replay keeps its lease: the time to stop it and to store its outcome."""

DEPLOYMENT = timedelta(minutes=15)
"""How long a deployment may take. A younger dispatch may come from a process with newer code, keys or settings than
this worker has. An older one is not expected to run on any worker.
"""

LONGEST_HAND_BACK = 60.0
"""The longest pause in seconds before a handed-back dispatch is published again. The first is 1 s; each one doubles."""

A_FEW = 10
"""How many late dispatches do not count as a delay: another transaction may have locked a row."""


def next_attempt(dispatch: Dispatch, policy: QueuePolicy, outcome: Outcome, now: datetime) -> datetime | None:
    """Returns when the next attempt is due. None if no attempt follows, or if the dispatch expires first."""
    seconds = pause(policy, dispatch.attempts_of_run, outcome.retry_after) if outcome.retriable else None
    if seconds is None:
        return None
    due = now + timedelta(seconds=seconds)
    return None if dispatch.has_expired(due) else due


def hand_back_until(dispatch: Dispatch, now: datetime) -> datetime:
    """Returns when a handed-back dispatch is published again."""
    return now + timedelta(seconds=min(2.0 ** min(dispatch.attempts_before, 10), LONGEST_HAND_BACK))


def may_start_again(dispatch: Dispatch, policy: QueuePolicy | None) -> bool:
    """Whether another attempt may follow a lost one. The policy is None if the queue is no longer configured."""
    return dispatch.attempts_of_run < (policy.starts if policy else 1)


def why_lost(reason: str, policy: QueuePolicy | None) -> str:
    """Returns the error of a dispatch whose last attempt was lost."""
    if policy is not None and policy.delivery == "at_most_once":
        return f"{reason}; it is not run again because the queue delivers at most once"
    return reason


def wanted_until(dispatch: Dispatch, last_wanted: datetime, now: datetime) -> datetime | None:
    """Returns when a revived dispatch expires: its lifetime starts again."""
    return None if dispatch.expires_at is None else now + (dispatch.expires_at - last_wanted)


def drop_response_at(outcome: Outcome, response: str | None, policy: QueuePolicy, now: datetime) -> datetime | None:
    """Returns when the stored response is dropped, or None if no response is stored."""
    return None if response is None or outcome.status is None else now + timedelta(seconds=policy.results_ttl)
