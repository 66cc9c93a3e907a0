"""Cancel a running attempt: update the ledger before the process is stopped, so that no outcome can be recorded."""

from __future__ import annotations

import uuid
from typing import Any

from celery.concurrency.base import BasePool
from django.db import connections

from broker_core.dispatches import Run
from broker_django.conf import conf
from broker_django.ledger import ledger


def can_stop(pool: Any) -> bool:
    """Whether the pool can stop a running task. Threads and solo cannot."""
    return getattr(pool.terminate_job, "__func__", None) is not BasePool.terminate_job


def cancel(dispatch_id: str, attempt: int, worker: str) -> bool:
    """Returns whether this attempt ran on this worker, on a queue that allows it, and is now cancelled."""
    try:
        ledger.limit_waits()
        dispatch = ledger.find(uuid.UUID(dispatch_id))
        policy = conf.queues.get(dispatch.queue) if dispatch else None
        allowed = policy is not None and policy.cancel_running
        return allowed and ledger.stop(uuid.UUID(dispatch_id), Run(attempt, worker))
    finally:
        connections.close_all()  # the replacement process must not inherit them
