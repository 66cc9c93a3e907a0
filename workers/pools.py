"""The pools of a running worker: its plan follows the rows, and no task is stopped for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from django.db import connections

from broker_django.conf import conf
from broker_django.pools import current_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_core.pools import Plan

logger = logging.getLogger("workers.pools")

LOOK_EVERY = 0.5
"""Seconds between looks at the routing table, which a thread of its own keeps current."""


class Pools:
    """The plan of this process, if it is a worker. Queues go by the names that they have in Celery."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.in_hand = 1
        """How many messages a worker holds for each of its processes; 0: as many as there are."""

    def weights(self) -> Mapping[str, float]:
        """Each queue's share of a process that serves all."""
        if self.plan is not None:
            return self.plan.weights
        return {policy.celery_queue: policy.weight for policy in conf.queues.values()}

    @property
    def limited(self) -> bool:
        """Whether any queue has processes for itself."""
        return self.plan is not None and bool(self.plan.held)

    def limit(self, queue: str) -> int:
        """How many messages of this queue the worker may hold; 0 where there is no limit."""
        if self.plan is None or queue not in self.plan.weights:
            return 0
        return (self.plan.dedicated.get(queue) or self.plan.processes) * self.in_hand

    def has_room(self, queue: str, running: Mapping[str, int]) -> bool:
        """Whether a task of this queue may start while each queue has that many running."""
        return self.plan is None or self.plan.has_room(queue, running)


pools = Pools()


class PoolsStep(bootsteps.StartStopStep):
    """Looks whether weights have changed. Polling is the truth; `broker_routing_changed` only makes it quicker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._timer: Any = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        self._look(parent)
        connections.close_all()  # a process that is forked later must not inherit what the first look opened
        self._timer = parent.timer.call_repeatedly(LOOK_EVERY, self._look, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, parent: Any) -> None:
        consumed = parent.app.amqp.queues.consume_from
        served = [name for name, policy in conf.queues.items() if policy.celery_queue in consumed]
        plan = current_plan(served, parent.pool.num_processes)
        if plan != pools.plan:
            logger.info("Processes: %s", plan)
            pools.plan, pools.in_hand = plan, parent.app.conf.worker_prefetch_multiplier
        if parent.connection.transport.driver_type == "amqp":
            parent.call_soon(_follow_limits, parent)


def _follow_limits(parent: Any) -> None:
    consumer = parent.task_consumer
    if consumer is not None:
        consumer.channel.follow_limits(consumer, parent.app.amqp.queues.consume_from.values())
