"""Weighted consumption: the queue that a free slot takes its next task from."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from workers.consuming.slots import pools

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class WeightedCycle:
    """Smooth weighted round robin over queues, as a kombu `queue_order_strategy`. It follows the worker's plan.

    Each queue has a credit, and the queue with the highest credit comes first. Whichever queue is served pays the sum
    of the weights, and every queue earns its own weight. An empty queue is left out: it neither earns nor makes others
    pay for it. So it is served at once when a task arrives, but cannot block the others afterwards.
    """

    def __init__(self, queues: Iterable[str] | None = None) -> None:
        self._credits: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._by_name: Mapping[str, float] = {}
        self._order: list[str] = []
        self.update(queues or ())

    def update(self, queues: Iterable[str]) -> None:
        """Serve these queues from now on. Queues that were served before keep their credit, up to the sum of the
        weights.
        """
        self._by_name = pools.weights()
        self._weights = {name: self._by_name.get(name, 1) for name in queues}
        total = sum(self._weights.values())
        self._credits = {name: max(-total, min(self._credits.get(name, 0), total)) for name in self._weights}

    def consume(self, n: int) -> list[str]:
        """Returns the first `n` queues in the order to try them."""
        if pools.plan is not None and pools.plan.weights is not self._by_name:
            self.update(self._weights)
        due = sorted(self._weights, key=lambda name: self._credits[name] + self._weights[name], reverse=True)
        self._order = due[:n]
        return self._order

    def rotate(self, last_used: str) -> None:
        """Record that `last_used` was served. Queues before it in the last order were empty."""
        if last_used not in self._weights:
            return
        empty = set(itertools.takewhile(lambda name: name != last_used, self._order))
        present = [name for name in self._weights if name not in empty]
        for name in present:
            self._credits[name] += self._weights[name]
        self._credits[last_used] -= sum(self._weights[name] for name in present)
