"""The plan of a running worker follows the rows, and no task is stopped for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from django.db import connections

from broker_django.conf import conf
from broker_django.operations.pools import current_plan
from broker_django.routing.table import tables
from workers.consuming.slots import pools

if TYPE_CHECKING:
    from broker_core.pools import Plan

logger = logging.getLogger("workers.consuming.planning")

LOOK_EVERY = 0.5
"""Seconds between looks at the routing table, which a thread of its own keeps current."""


class Planning(bootsteps.StartStopStep):
    """Looks whether weights have changed. Polling is the truth; `broker_routing_changed` only makes it quicker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._timer: Any = None
        parent.broker_planning = self
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        self._look(parent)
        connections.close_all()  # a process that is forked later must not inherit what the first look opened
        self._timer = parent.timer.call_repeatedly(LOOK_EVERY, self._look, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def plan(self) -> Plan | None:
        return pools.plan

    def hurry(self) -> None:
        """Have the rows looked at now: somebody says that they have changed."""
        tables.poll_now()

    def _look(self, parent: Any) -> None:
        consumed = parent.app.amqp.queues.consume_from
        served = [name for name, policy in conf.queues.items() if policy.celery_queue in consumed]
        if not served:
            return
        processes = getattr(parent.controller, "max_concurrency", None) or parent.pool.num_processes  # as Celery counts
        plan = current_plan(served, processes)
        if plan != pools.plan:
            logger.info("%s", plan)
            pools.plan, pools.in_hand = plan, parent.app.conf.worker_prefetch_multiplier
        parent.call_soon(_follow_limits, parent)


def _follow_limits(parent: Any) -> None:
    consumer = parent.task_consumer
    if consumer is not None and hasattr(consumer.channel, "follow_limits"):
        consumer.channel.follow_limits(consumer, parent.app.amqp.queues.consume_from.values())
