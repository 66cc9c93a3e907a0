"""Weighted consumption: which queue a free slot takes its next task from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_django.conf import conf

if TYPE_CHECKING:
    from collections.abc import Iterable


class WeightedCycle:
    """Smooth weighted round robin over queues, as a kombu `queue_order_strategy`.

    Each queue has a credit. The fullest comes first; whoever is served pays the total of the weights, and every queue
    earns its own weight. A queue that was empty for long keeps at most one round of credit, so it is served at once
    when work arrives but cannot hold the others up afterwards.
    """

    def __init__(self, queues: Iterable[str] | None = None) -> None:
        self._credits: dict[str, int] = {}
        self._weights: dict[str, int] = {}
        self.update(queues or ())

    def update(self, queues: Iterable[str]) -> None:
        """Serve these queues from now on; those that were served before keep their credit."""
        by_name = {policy.celery_queue: policy.weight for policy in conf.queues.values()}
        self._weights = {name: by_name.get(name, 1) for name in queues}
        self._credits = {name: self._credits.get(name, 0) for name in self._weights}

    def consume(self, n: int) -> list[str]:
        """The first `n` queues in the order to try them."""
        due = sorted(self._weights, key=lambda name: self._credits[name] + self._weights[name], reverse=True)
        return due[:n]

    def rotate(self, last_used: str) -> None:
        """`last_used` was served."""
        if last_used not in self._weights:
            return
        total = sum(self._weights.values())
        for name, weight in self._weights.items():
            self._credits[name] = min(self._credits[name] + weight, total)
        self._credits[last_used] = max(self._credits[last_used] - total, -total)
