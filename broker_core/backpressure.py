"""Backpressure: when a queue takes no more, and when it is worth another try."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from broker_core.policies import QueuePolicy

SHED = 0.8
"""The part of its limit at which a queue has those of less weight refuse."""

SHORTEST, LONGEST = 1, 3_600
"""Seconds between which a Retry-After lies."""

NOTHING_DRAINS = 60
"""The Retry-After, in seconds, while nothing leaves the queue: nobody knows when that ends."""

SMOOTHED_OVER = 10.0
"""Seconds in which the drain rate follows a change to about two thirds."""


@dataclass(frozen=True, slots=True)
class Load:
    """A queue at one moment.

    depth: how many dispatches wait. age: seconds since the oldest was accepted. capped: whether there may be more than
    were counted. measured: dispatches a second that left it, None as long as it was looked at only once.
    """

    depth: int
    age: float
    at: datetime
    capped: bool = False
    measured: float | None = None

    @property
    def drain(self) -> float:
        """Dispatches a second that leave the queue; by Little's law as long as nothing was measured."""
        if self.measured is not None:
            return self.measured
        return self.depth / self.age if self.age > 0 else 0.0


def follow(before: Load, now: Load, arrivals: int) -> Load:
    """`now` with the drain rate that it shows, smoothed exponentially. `arrivals` came since `before`."""
    elapsed = (now.at - before.at).total_seconds()
    if elapsed <= 0 or (before.capped and now.capped):
        return replace(now, measured=before.measured)
    drained = max(arrivals - (now.depth - before.depth), 0) / elapsed
    if before.measured is None:
        return replace(now, measured=drained)
    weight = 1 - math.exp(-elapsed / SMOOTHED_OVER)
    return replace(now, measured=before.measured + weight * (drained - before.measured))


def is_limited(policy: QueuePolicy) -> bool:
    return policy.max_depth is not None or policy.max_age is not None


def pressure(policy: QueuePolicy, load: Load) -> float:
    """The part of its limit that the load makes up, of the nearer one where there are two; 1 and above is too much."""
    return max(_part(load.depth, policy.max_depth), _part(load.age, policy.max_age))


def _part(value: float, limit: float | None) -> float:
    if limit is None:
        return 0.0
    return value / limit if limit else math.inf


def thresholds(queue: str, policies: Mapping[str, QueuePolicy]) -> dict[str, float]:
    """The queues whose load decides whether this one takes more, each with the pressure at which it does not."""
    weight = policies[queue].weight
    limited = ((name, policy) for name, policy in policies.items() if is_limited(policy))
    return {name: 1.0 if name == queue else SHED for name, policy in limited if name == queue or policy.weight > weight}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a queue takes no more: the load of `queue`. `retry_after` is in seconds."""

    queue: str
    retry_after: int


def verdict(queue: str, policies: Mapping[str, QueuePolicy], loads: Mapping[str, Load]) -> Refusal | None:
    """The refusal that takes longest to be over; None where the queue takes more. Loads that are not known are none."""
    refusals = [
        Refusal(name, retry_after(policies[name], loads[name], threshold))
        for name, threshold in thresholds(queue, policies).items()
        if name in loads and pressure(policies[name], loads[name]) >= threshold
    ]
    return max(refusals, key=lambda refusal: refusal.retry_after, default=None)


def retry_after(policy: QueuePolicy, load: Load, threshold: float = 1.0) -> int:
    """Seconds until the pressure is below the threshold at the present drain rate, if nothing more comes."""
    if load.drain <= 0 or 0 in (policy.max_depth, policy.max_age):
        return NOTHING_DRAINS
    seconds = max(_until_shorter(policy.max_depth, load, threshold), _until_younger(policy.max_age, load, threshold))
    return math.ceil(min(max(seconds, SHORTEST), LONGEST))


def _until_shorter(max_depth: int | None, load: Load, threshold: float) -> float:
    if max_depth is None:
        return 0.0
    excess = load.depth - math.ceil(max_depth * threshold) + 1
    return max(excess, 0) / load.drain


def _until_younger(max_age: float | None, load: Load, threshold: float) -> float:
    """As if the dispatches had come evenly since the oldest did. While some leave, the others grow older."""
    if max_age is None or load.age < max_age * threshold:
        return 0.0
    until_empty, came = load.depth / load.drain, load.depth / load.age
    if load.drain <= came:
        return until_empty
    return min(until_empty, (load.age - max_age * threshold) * came / (load.drain - came))
