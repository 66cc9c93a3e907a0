"""Fail dispatches whose stored request can no longer be opened with any key."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from broker_core.dispatches import State
from broker_core.dispatches.transitions import DEPLOYMENT
from broker_core.errors import EnvelopeError, MessageError, StoredRequestError, UnknownKeyError
from broker_django.ledger import ledger
from broker_django.messaging.sealing import can_open, check_sealed, seal_response
from workers.replaying import error_reports
from workers.replaying.replay import unanswered

if TYPE_CHECKING:
    from broker_core.dispatches import Dispatch, SealedRequest
    from broker_core.policies import QueuePolicy

logger = logging.getLogger("workers.recovery.unreadable")

HESITATION = timedelta(seconds=60)
"""How long a dispatch waits that perhaps only another worker can handle."""
WORKER = "reaper"


def held_back(request: SealedRequest, policy: QueuePolicy, now: datetime) -> bool:
    """Whether it must not be published, for its request cannot be read here. Then it is put off, or has failed.

    Only the ledger's own copy counts: a message can be forged, and must not fail the dispatch whose id it bears. Nor
    does a worker count that has the wrong key or old code itself: it cannot read what was accepted last, either.
    """
    dispatch = request.dispatch
    try:
        check_sealed(request)
    except (EnvelopeError, MessageError) as error:
        if now - ledger.last_wanted(dispatch) < DEPLOYMENT or _knows_too_little(error):
            logger.warning("Dispatch %s cannot be opened by this worker: %s", dispatch.id, error, extra=_told(dispatch))
            ledger.postpone(dispatch.id, now + HESITATION, dispatch.publish_at)
        else:
            _fail(dispatch, policy, f"the request cannot be opened: {error}", now)
        return True
    return False


def _knows_too_little(error: Exception) -> bool:
    """Whether this worker may be the one that lacks the key, or the version."""
    lacking = isinstance(error, UnknownKeyError | MessageError)
    return lacking and not can_open(ledger.latest_seal())


def _told(dispatch: Dispatch) -> dict[str, str]:
    return {"dispatch_id": str(dispatch.id), "queue": dispatch.queue}


def _fail(dispatch: Dispatch, policy: QueuePolicy, reason: str, now: datetime) -> None:
    """With a response that says so. The request is kept: with its key back, the dispatch can be run again."""
    if ledger.mark_published(dispatch, now) is None:
        return
    attempt = ledger.claim(dispatch.id, policy, WORKER, now)
    if not attempt:
        if ledger.close(dispatch.id, policy, now) is State.FAILED:
            error_reports.report_failure_of(dispatch.id)
        return
    answer = unanswered(StoredRequestError(reason), unknown_here=False)
    sealed = seal_response(answer.response, str(dispatch.id), attempt)
    if ledger.conclude(dispatch.id, attempt, policy, answer.outcome, sealed):
        logger.error("Dispatch %s fails: %s", dispatch.id, reason, extra=error_reports.log_extra(dispatch.id))
        error_reports.report_failure_of(dispatch.id)
