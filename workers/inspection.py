"""What a worker tells of itself over Celery's remote control."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.worker.control import control_command, inspect_command

from broker_django.pools import ROUTING_CHANGED
from broker_django.table import tables
from workers.pools import pools

logger = logging.getLogger("workers.inspection")


@inspect_command(name="broker_status")
def broker_status(state: Any) -> dict[str, Any]:
    """The worker's clock (seconds since the epoch), the Celery queues that it consumes, and its processes."""
    plan = pools.plan
    return {
        "time": time.time(),
        "queues": sorted(queue.name for queue in state.consumer.task_consumer.queues),
        "pool": state.consumer.pool.__class__.__module__,
        "processes": plan and {"shared": plan.shared, "dedicated": plan.dedicated, "reserved": plan.reserved},
        "weights": plan and plan.weights,
    }


@control_command(name=ROUTING_CHANGED)
def routing_changed(state: Any) -> dict[str, str]:  # noqa: ARG001 - Celery's signature
    """Look at the rows of routers and destinations now."""
    logger.info("Routers have changed")
    tables.look()
    return {"ok": "looking"}
