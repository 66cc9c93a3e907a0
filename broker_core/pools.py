"""Pools: which of a worker's queues each of its processes serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from broker_core.balancing import apportion
from broker_core.routing import Action

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_core.policies import QueuePolicy
    from broker_core.routing import Router

_SHARED = ""


@dataclass(frozen=True)
class Plan:
    """How the processes of one worker are shared out among its queues.

    weights: each queue's share of the processes that serve all queues. dedicated: how many serve that queue alone.
    reserved: how many of the shared ones are kept from queues that are no faster.
    """

    processes: int
    weights: Mapping[str, float]
    dedicated: Mapping[str, int] = field(default_factory=dict)
    reserved: Mapping[str, int] = field(default_factory=dict)
    policies: Mapping[str, QueuePolicy] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        own = [f"{number} for {name}" for name, number in self.dedicated.items()]
        kept = [f"{number} of them reserved for {name}" for name, number in self.reserved.items()]
        shared = [f"{self.shared} shared" + "".join(f", {text}" for text in kept)] if self.shared else []
        return f"{self.processes} processes: {'; '.join([*own, *shared])}"

    @property
    def shared(self) -> int:
        """How many processes serve all queues."""
        return self.processes - sum(self.dedicated.values())

    @cached_property
    def held(self) -> dict[str, int]:
        """How many processes each queue has for itself, dedicated or reserved."""
        names = {**self.dedicated, **self.reserved}
        return {name: self.dedicated.get(name, 0) + self.reserved.get(name, 0) for name in names}

    def _left_by(self, queue: str) -> dict[str, int]:
        """How many processes this queue has to leave to each other one."""
        return {
            other: self.dedicated.get(other, 0) if self._is_faster(queue, other) else number
            for other, number in self.held.items()
            if other != queue
        }

    def _is_faster(self, queue: str, other: str) -> bool:
        if queue not in self.policies:
            return False
        return self.policies[queue].weight > self.policies[other].weight

    def has_room(self, queue: str, running: Mapping[str, int]) -> bool:
        """Whether another task of this queue may start while each queue has that many running."""
        if not self.held:
            return True
        free = self.processes - sum(running.values())
        if running.get(queue, 0) < self.held.get(queue, 0):
            return free > 0
        return free > sum(max(0, number - running.get(other, 0)) for other, number in self._left_by(queue).items())


def pool_factors(routers: Iterable[Router], policies: Mapping[str, QueuePolicy]) -> dict[str, float]:
    """What the weight of each queue that is a pool is multiplied by, by its name.

    Queues are pools of one class where a router spreads requests over them and their policies have the same weight.
    Its destinations share that class out: one of average weight has 1, one of twice that has 2. Where several routers
    name a queue it is the mean of what they say.
    """
    said: dict[str, list[float]] = {}
    for router in routers:
        if router.action is not Action.QUEUE:
            continue
        weights: dict[str, int] = {}
        for destination in router.destinations:
            weights[destination.url] = weights.get(destination.url, 0) + max(destination.weight, 0)
        total = sum(weights.values())
        if not total or not _is_one_class(weights, policies):
            continue
        for name, weight in weights.items():
            said.setdefault(name, []).append(weight * len(weights) / total)
    means = {name: sum(factors) / len(factors) for name, factors in said.items()}
    return {name: factor for name, factor in means.items() if factor}


def _is_one_class(names: Iterable[str], policies: Mapping[str, QueuePolicy]) -> bool:
    known = [policies.get(name) for name in names]
    return len(known) > 1 and all(known) and len({policy.weight for policy in known if policy}) == 1


def plan_for(
    policies: Mapping[str, QueuePolicy], factors: Mapping[str, float], processes: int, *, ordered: bool
) -> Plan:
    """The plan for a worker of these queues.

    The processes are apportioned to the pools and to all other queues together, by weight, one at least for each and
    for each reserve; with too few for that, all are shared. `ordered` says whether a shared process can choose between
    queues; where it cannot, each queue has processes of its own.
    """
    weights = {name: policy.weight * factors.get(name, 1.0) for name, policy in policies.items()}
    pools = [name for name in policies if name in factors or not ordered]
    dedicated = _dedicated(weights, pools, {name: policy.reserve for name, policy in policies.items()}, processes)
    reserved = _reserved(policies, dedicated, processes - sum(dedicated.values())) if ordered else {}
    return Plan(processes, weights, dedicated, reserved, policies)


def _dedicated(
    weights: Mapping[str, float], pools: list[str], reserves: Mapping[str, int], processes: int
) -> dict[str, int]:
    """The processes of each pool; none where that would leave too few for one each, for the rest, or for a reserve."""
    entries = {name: weights[name] for name in pools}
    least = {name: max(reserves[name], 1) for name in pools}
    others = [name for name in weights if name not in entries]
    if others:
        entries[_SHARED] = sum(weights[name] for name in others)
        least[_SHARED] = 1 + sum(reserves[name] for name in others)
    if not pools or processes < len(entries) or (others and processes < sum(least.values())):
        return {}
    seats = _at_least(apportion(entries, processes), least)
    return {name: seats[name] for name in pools}


def _at_least(seats: Mapping[str, int], least: Mapping[str, int]) -> dict[str, int]:
    """The seats, moved to who has too few from who has the most to spare, as long as somebody has."""
    moved = dict(seats)
    for name, number in least.items():
        while moved[name] < number:
            richest = max(moved, key=lambda other: moved[other] - least[other])
            if moved[richest] <= least[richest]:
                break
            moved[richest] -= 1
            moved[name] += 1
    return moved


def _reserved(policies: Mapping[str, QueuePolicy], dedicated: Mapping[str, int], shared: int) -> dict[str, int]:
    """What each queue keeps of the shared processes: the fastest first, and one at least stays open to all."""
    reserved: dict[str, int] = {}
    spare = shared - 1
    for name in sorted(policies, key=lambda name: -policies[name].weight):
        number = min(policies[name].reserve - dedicated.get(name, 0), spare)
        if number > 0:
            reserved[name] = number
            spare -= number
    return reserved
