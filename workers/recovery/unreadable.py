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

OTHER_WORKER_DELAY = timedelta(seconds=60)
"""How long a dispatch is postponed if perhaps another worker can handle it."""
WORKER = "reaper"


def postpone_unreadable(request: SealedRequest, policy: QueuePolicy, now: datetime) -> bool:
    """Postpone or fail the dispatch if its request cannot be opened here. Returns False if it can.

    It fails only if the ledger's copy cannot be opened, because a message with its id may be forged. It does not fail
    if this worker cannot open the latest request either, because then the worker has an old key or old code.
    """
    dispatch = request.dispatch
    try:
        check_sealed(request)
    except (EnvelopeError, MessageError) as error:
        if now - ledger.last_wanted(dispatch) < DEPLOYMENT or _is_outdated(error):
            extra = {"dispatch_id": str(dispatch.id), "queue": dispatch.queue}
            logger.warning("Dispatch %s cannot be opened by this worker: %s", dispatch.id, error, extra=extra)
            ledger.postpone(dispatch.id, now + OTHER_WORKER_DELAY, dispatch.publish_at)
        else:
            _fail(dispatch, policy, f"the request cannot be opened: {error}", now)
        return True
    return False


def _is_outdated(error: Exception) -> bool:
    """Whether this worker itself may lack a key, or the current version."""
    return isinstance(error, UnknownKeyError | MessageError) and not can_open(ledger.latest_seal())


def _fail(dispatch: Dispatch, policy: QueuePolicy, reason: str, now: datetime) -> None:
    """Fail the dispatch, with a response. Its request is kept, so it can be retried once the key is back."""
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
