"""The plan of this worker's processes, which its transport and its order of queues use for each message.

It is imported wherever Celery's settings are used, also before Django is set up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_django.conf import conf
from broker_django.messaging.probing import QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_core.pools import Plan


class Pools:
    """The plan of this process, if it is a worker. Queues have their Celery names."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.multiplier = 1
        """How many messages a worker may hold per process; 0 means no limit."""

    def weights(self) -> Mapping[str, float]:
        """Returns each queue's share of a process that serves all queues."""
        if self.plan is not None:
            return self.plan.weights
        return {policy.celery_queue: policy.weight for policy in conf.queues.values()}

    @property
    def limited(self) -> bool:
        """Whether any queue has dedicated processes."""
        return self.plan is not None and bool(self.plan.guaranteed)

    @property
    def total_limit(self) -> int:
        """How many messages the worker may hold; 0 means no limit."""
        return self.plan.processes * self.multiplier if self.plan is not None else 0

    def limit(self, queue: str) -> int:
        """Returns how many messages of this queue the worker may hold; 0 means no limit."""
        if self.plan is None or queue not in self.plan.weights:
            return 0
        return (self.plan.dedicated.get(queue) or self.plan.processes) * self.multiplier

    def open(self, queues: Iterable[str], running: Mapping[str, int]) -> list[str]:
        """Returns the queues that may start another task while each queue has this many running. A probe may use any
        free process.
        """
        plan = self.plan
        if plan is None:
            return list(queues)
        free = plan.processes > sum(running.values())
        return [queue for queue in queues if (free if queue.startswith(QUEUES) else plan.has_room(queue, running))]


pools = Pools()
