"""Pools: which queues each process of a worker serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from broker_core.routing.balancing import apportion
from broker_core.routing.routers import Action

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_core.policies import QueuePolicy
    from broker_core.routing.routers import Router

_SHARED = ""


@dataclass(frozen=True)
class Plan:
    """How the processes of one worker are divided among its queues.

    weights: each queue's share of the shared processes, which serve all queues. dedicated: how many processes serve
    only that queue. reserved: how many shared processes are reserved for that queue and faster ones.
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
        """The number of processes that serve all queues."""
        return self.processes - sum(self.dedicated.values())

    @cached_property
    def guaranteed(self) -> dict[str, int]:
        """The number of processes that each queue has for itself, dedicated or reserved."""
        names = {**self.dedicated, **self.reserved}
        return {name: self.dedicated.get(name, 0) + self.reserved.get(name, 0) for name in names}

    def _left_by(self, queue: str) -> dict[str, int]:
        """Returns how many processes this queue must leave free for each other queue."""
        return {
            other: self.dedicated.get(other, 0) if self._is_faster(queue, other) else number
            for other, number in self.guaranteed.items()
            if other != queue
        }

    def _is_faster(self, queue: str, other: str) -> bool:
        if queue not in self.policies:
            return False
        return self.policies[queue].weight > self.policies[other].weight

    def has_room(self, queue: str, running: Mapping[str, int]) -> bool:
        """Whether another task of this queue may start. `running` is the number of running tasks by queue."""
        if not self.guaranteed:
            return True
        free = self.processes - sum(running.values())
        if running.get(queue, 0) < self.guaranteed.get(queue, 0):
            return free > 0
        return free > sum(max(0, number - running.get(other, 0)) for other, number in self._left_by(queue).items())


def pool_factors(routers: Iterable[Router], policies: Mapping[str, QueuePolicy]) -> dict[str, float]:
    """Returns the factor for the weight of each queue that is a pool, by name.

    Queues are pools of one class if a router distributes requests over them and their policies have the same weight.
    The weights of its destinations divide that class: an average weight has the factor 1, twice the average has 2. If
    several routers name a queue, the factor is the mean.
    """
    factors_by_name: dict[str, list[float]] = {}
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
            factors_by_name.setdefault(name, []).append(weight * len(weights) / total)
    means = {name: sum(factors) / len(factors) for name, factors in factors_by_name.items()}
    return {name: factor for name, factor in means.items() if factor}


def _is_one_class(names: Iterable[str], policies: Mapping[str, QueuePolicy]) -> bool:
    known = [policies.get(name) for name in names]
    return len(known) > 1 and all(known) and len({policy.weight for policy in known if policy}) == 1


def plan_for(
    policies: Mapping[str, QueuePolicy], factors: Mapping[str, float], processes: int, *, ordered: bool
) -> Plan:
    """Returns the plan for a worker of these queues.

    The pools, and all other queues together, get processes by weight: at least one each, and one for each reserve. If
    there are too few processes for that, all are shared. `ordered` says whether a shared process can choose between
    queues; if not, each queue gets its own processes.
    """
    weights = {name: policy.weight * factors.get(name, 1.0) for name, policy in policies.items()}
    pools = [name for name in policies if name in factors or not ordered]
    dedicated = _dedicated(weights, pools, {name: policy.reserve for name, policy in policies.items()}, processes)
    reserved = _reserved(policies, dedicated, processes - sum(dedicated.values())) if ordered else {}
    return Plan(processes, weights, dedicated, reserved, policies)


def _dedicated(
    weights: Mapping[str, float], pools: list[str], reserves: Mapping[str, int], processes: int
) -> dict[str, int]:
    """Returns the processes of each pool; nothing if too few would remain for the other pools, queues or reserves."""
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
    """Moves seats to those with too few, from those with the most to spare, as far as possible."""
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
    """Returns how many shared processes each queue reserves: fastest queue first; at least one stays open to all."""
    reserved: dict[str, int] = {}
    spare = shared - 1
    for name in sorted(policies, key=lambda name: -policies[name].weight):
        number = min(policies[name].reserve - dedicated.get(name, 0), spare)
        if number > 0:
            reserved[name] = number
            spare -= number
    return reserved
