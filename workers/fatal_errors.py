"""A worker that cannot go on says what is to be done, and ends with a status that supervisors take for a failure."""

from __future__ import annotations

import logging
import sys
from typing import Any

from broker_core.redaction import redacted
from workers.consuming.redis_memory import is_full

logger = logging.getLogger("workers.failing")

FULL = (
    "Redis is at its maxmemory and takes nothing any more: raise maxmemory, or delete what is not the broker's. "
    "Lower max_published of the queues if their messages fill it."
)
ELSE = "See the error above. Whatever starts this worker has to start it again."


def explain(**_: Any) -> None:
    """A receiver of `worker_shutdown`, which Celery sends while it handles the error that ends a worker."""
    error = sys.exc_info()[1]
    if not isinstance(error, Exception):
        return
    advice = FULL if is_full(error) else ELSE
    logger.critical("The worker ends with an error, %s. %s", redacted(error), advice)
