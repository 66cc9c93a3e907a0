"""Log advice when an error ends a worker."""

from __future__ import annotations

import logging
import sys
from typing import Any

from broker_core.redaction import redacted
from workers.consuming.redis_memory import is_full

logger = logging.getLogger("workers.fatal_errors")

FULL = (
    "Redis has reached its maxmemory and accepts no more data: raise maxmemory, or delete other applications' data. "
    "If messages fill it, lower max_published of the queues."
)
ELSE = "See the error above. Let your process supervisor restart this worker."


def explain(**_: Any) -> None:
    """Receiver of `worker_shutdown`, which Celery sends while it handles the error."""
    error = sys.exc_info()[1]
    if not isinstance(error, Exception):
        return
    advice = FULL if is_full(error) else ELSE
    logger.critical("The worker ends with an error, %s. %s", redacted(error), advice)
