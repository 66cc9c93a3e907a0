"""Backpressure: when a queue refuses more dispatches, and when the client should try again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from broker_core.policies import QueuePolicy

SHED = 0.8
"""Queues of lower weight are refused when a queue reaches this part of its limit."""

SHORTEST, LONGEST = 1, 3_600
"""The bounds of Retry-After, in seconds."""

NOTHING_DRAINS = 60
"""The Retry-After, in seconds, if no dispatch leaves the queue, so that no estimate is possible."""

SMOOTHED_OVER = 10.0
"""Seconds after which the drain rate has followed about two thirds of a change."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a queue at one moment.

    depth: how many dispatches wait. age: seconds since the oldest of them was accepted. capped: whether counting
    stopped at a bound, so that `depth` may be too low. measured: dispatches that leave the queue per second, or None
    after a single measurement.
    """

    depth: int
    age: float
    at: datetime
    capped: bool = False
    measured: float | None = None

    @property
    def drain(self) -> float:
        """Dispatches that leave the queue per second; an estimate by Little's law until the rate was measured."""
        if self.measured is not None:
            return self.measured
        return self.depth / self.age if self.age > 0 else 0.0


def follow(before: Load, now: Load, arrivals: int) -> Load:
    """Returns `now` with its drain rate, smoothed exponentially. `arrivals` were accepted since `before`."""
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
    """Returns the load as a part of its limit, the larger part if there are two limits; 1 or more is too much."""
    return max(_part(load.depth, policy.max_depth), _part(load.age, policy.max_age))


def _part(value: float, limit: float | None) -> float:
    if limit is None:
        return 0.0
    return value / limit if limit else math.inf


def thresholds(queue: str, policies: Mapping[str, QueuePolicy]) -> dict[str, float]:
    """Returns the queues whose load decides about this queue, each with the pressure at which this queue refuses."""
    weight = policies[queue].weight
    limited = ((name, policy) for name, policy in policies.items() if is_limited(policy))
    return {name: 1.0 if name == queue else SHED for name, policy in limited if name == queue or policy.weight > weight}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a queue refuses: because of the load of `queue`. `retry_after` is in seconds."""

    queue: str
    retry_after: int


def verdict(queue: str, policies: Mapping[str, QueuePolicy], loads: Mapping[str, Load]) -> Refusal | None:
    """Returns the refusal that lasts longest, or None if the queue accepts. A queue of unknown load refuses nothing."""
    refusals = [
        Refusal(name, retry_after(policies[name], loads[name], threshold))
        for name, threshold in thresholds(queue, policies).items()
        if name in loads and pressure(policies[name], loads[name]) >= threshold
    ]
    return max(refusals, key=lambda refusal: refusal.retry_after, default=None)


def retry_after(policy: QueuePolicy, load: Load, threshold: float = 1.0) -> int:
    """Returns the seconds until the pressure is below the threshold at the present drain rate, if nothing is added."""
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
    """Assumes that the dispatches arrived evenly since the oldest one. While some leave, the others grow older."""
    if max_age is None or load.age < max_age * threshold:
        return 0.0
    until_empty, arrival_rate = load.depth / load.drain, load.depth / load.age
    if load.drain <= arrival_rate:
        return until_empty
    return min(until_empty, (load.age - max_age * threshold) * arrival_rate / (load.drain - arrival_rate))
