"""What a worker tells of itself over Celery's remote control."""

from __future__ import annotations

import time
from typing import Any

from celery.worker.control import inspect_command


@inspect_command(name="broker_status")
def broker_status(state: Any) -> dict[str, Any]:
    """The worker's clock (seconds since the epoch) and the Celery queues that it consumes."""
    return {
        "time": time.time(),
        "queues": sorted(queue.name for queue in state.consumer.task_consumer.queues),
        "pool": state.consumer.pool.__class__.__module__,
    }
