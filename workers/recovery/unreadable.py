"""Fail dispatches whose stored request can no longer be opened with any key."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from broker_core.dispatches import State
from broker_core.errors import EnvelopeError, MessageError, StoredRequestError, UnknownKeyError
from broker_django import ledger
from broker_django.ledger import responses
from broker_django.messaging.notifications import announce
from broker_django.messaging.sealing import can_open, check_sealed, seal_response
from workers.replaying import error_reports
from workers.replaying.replay import unanswered

if TYPE_CHECKING:
    from broker_core.policies import QueuePolicy
    from broker_django.models import DispatchRecord

logger = logging.getLogger("workers.recovery.unreadable")

HESITATION = timedelta(seconds=60)
"""How long a dispatch waits that perhaps only another worker can handle."""
WORKER = "reaper"


def held_back(record: DispatchRecord, policy: QueuePolicy, now: datetime) -> bool:
    """Whether it must not be published, for its request cannot be read here. Then it is put off, or has failed.

    Only the ledger's own copy counts: a message can be forged, and must not fail the dispatch whose id it bears. Nor
    does a worker count that has the wrong key or old code itself: it cannot read what was accepted last, either.
    """
    try:
        check_sealed(record)
    except (EnvelopeError, MessageError) as error:
        if now - ledger.last_wanted(record) < ledger.DEPLOYMENT or _knows_too_little(error):
            logger.warning("Dispatch %s cannot be opened by this worker: %s", record.pk, error, extra=_told(record))
            ledger.put_off(record.pk, now + HESITATION, due_at=record.due_at)
        else:
            _fail(record, policy, f"the request cannot be opened: {error}", now)
        return True
    return False


def _knows_too_little(error: Exception) -> bool:
    """Whether this worker may be the one that lacks the key, or the version."""
    lacking = isinstance(error, UnknownKeyError | MessageError)
    return lacking and not can_open(ledger.latest_seal())


def _told(record: DispatchRecord) -> dict[str, str]:
    return {"dispatch_id": str(record.pk), "queue": record.queue}


def _fail(record: DispatchRecord, policy: QueuePolicy, reason: str, now: datetime) -> None:
    """With a response that says so. The request is kept: with its key back, the dispatch can be run again."""
    if not ledger.take_up(record, now):
        return
    attempt = ledger.claim(record.pk, policy, WORKER, now)
    if not attempt:
        if ledger.close(record.pk, policy, now) is State.FAILED:
            error_reports.report_failure_of(record.pk)
        return
    answer = unanswered(StoredRequestError(reason), unknown_here=False)
    sealed = seal_response(answer.response, str(record.pk), attempt)
    if responses.conclude(record.pk, attempt, policy, answer.outcome, sealed, None):
        logger.error("Dispatch %s fails: %s", record.pk, reason, extra=error_reports.log_extra(record.pk))
        announce(record.pk)
        error_reports.report_failure_of(record.pk)
