"""What a worker tells of itself, and is told, over Celery's remote control.

`celery inspect` imports it before Django is set up.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.worker.control import control_command, inspect_command

from broker_django.celery_app import ROUTING_CHANGED

logger = logging.getLogger("workers.inspection")


@inspect_command(name="broker_status")
def broker_status(state: Any) -> dict[str, Any]:
    """The worker's clock (seconds since the epoch), the Celery queues that it consumes, and its processes."""
    plan = state.consumer.broker_planning.plan
    return {
        "time": time.time(),
        "queues": sorted(state.app.amqp.queues.consume_from),
        "pool": state.consumer.pool.__class__.__module__,
        "processes": plan and {"shared": plan.shared, "dedicated": plan.dedicated, "reserved": plan.reserved},
        "weights": plan and plan.weights,
    }


@control_command(name=ROUTING_CHANGED)
def routing_changed(state: Any) -> dict[str, str]:
    """Look at the rows of routers and destinations now."""
    logger.info("Routers have changed")
    state.consumer.broker_planning.hurry()
    return {"ok": "looking"}
