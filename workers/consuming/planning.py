"""Keep a running worker's plan in line with the rows, without stopping a task."""

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

CHECK_EVERY = 0.5
"""Seconds between checks of the routing table, which its own thread keeps current."""


class Planning(bootsteps.StartStopStep):
    """Checks whether weights have changed. It polls; `broker_routing_changed` only makes it faster."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._timer: Any = None
        parent.broker_planning = self
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        self._update(parent)
        connections.close_all()  # forked processes must not inherit a connection
        self._timer = parent.timer.call_repeatedly(CHECK_EVERY, self._update, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def plan(self) -> Plan | None:
        return pools.plan

    def poll_now(self) -> None:
        """Read the rows now, because they have changed."""
        tables.poll_now()

    def _update(self, parent: Any) -> None:
        consumed = parent.app.amqp.queues.consume_from
        served = [name for name, policy in conf.queues.items() if policy.celery_queue in consumed]
        if not served:
            return
        # As Celery counts them.
        processes = getattr(parent.controller, "max_concurrency", None) or parent.pool.num_processes
        plan = current_plan(served, processes)
        if plan != pools.plan:
            logger.info("%s", plan)
            pools.plan, pools.multiplier = plan, parent.app.conf.worker_prefetch_multiplier
        parent.call_soon(_follow_limits, parent)


def _follow_limits(parent: Any) -> None:
    consumer = parent.task_consumer
    if consumer is not None and hasattr(consumer.channel, "follow_limits"):
        consumer.channel.follow_limits(consumer, parent.app.amqp.queues.consume_from.values())
