"""Fail dispatches in queues that are no longer in the settings. They can be retried later."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from broker_core.dispatches import State
from broker_core.dispatches.transitions import DEPLOYMENT
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import get_app
from workers.replaying import error_reports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

logger = logging.getLogger("workers.recovery.former_queues")

BATCH = 100
REPORTED_EVERY = timedelta(minutes=5)
INSPECT_TIMEOUT = 1.0
"""Seconds that other workers have to report which queues they serve."""

_reported: dict[str, datetime] = {}
"""When this process last logged that dispatches wait in such a queue."""


def former_queues(now: datetime) -> Iterator[None]:
    """Fail dispatches in queues that no worker serves, in small steps.

    This worker's settings may be the outdated ones. So it fails nothing in a queue that recently accepted a dispatch,
    or that another worker serves.
    """
    for queue in ledger.queues(State.QUEUED):
        if queue in conf.queues:
            continue
        _report(queue, now)
        newest = ledger.newest(queue)
        if newest is None or now - newest < DEPLOYMENT or _is_served(queue):
            continue
        yield
        for dispatch_id in ledger.forgotten(queue, now - DEPLOYMENT, BATCH):
            _abandon(dispatch_id, f"the queue {queue!r} is not configured any more", now)
            yield


def _report(queue: str, now: datetime) -> None:
    """Log how many wait, only occasionally for each queue, because passes are frequent."""
    last = _reported.get(queue)
    if last is None or now - last >= REPORTED_EVERY:
        _reported[queue] = now
        logger.error("%d dispatches wait in the queue %r, which is not configured here", ledger.depth(queue), queue)


def _abandon(dispatch_id: UUID, reason: str, now: datetime) -> None:
    """Fail the dispatch, unless its row is locked: then the next pass tries again."""
    try:
        abandoned = ledger.abandon(dispatch_id, reason, now)
    except ledger.failures as error:
        if not ledger.is_locked_out(error):
            raise
        return
    if abandoned:
        logger.error("Dispatch %s fails: %s", dispatch_id, reason, extra=error_reports.log_extra(dispatch_id))
        error_reports.report_failure_of(dispatch_id)


def _is_served(queue: str) -> bool:
    """Whether a worker serves the queue. If the workers cannot be asked, assume so."""
    try:
        inspect: Any = get_app().control.inspect(timeout=INSPECT_TIMEOUT)
        replies = inspect._request("broker_status") or {}
    except Exception as error:  # noqa: BLE001 - each transport has its own errors
        logger.info("The workers cannot be asked which queues they serve: %s", redacted(error))
        return True
    return any(queue in reply.get("names", ()) for reply in replies.values())
