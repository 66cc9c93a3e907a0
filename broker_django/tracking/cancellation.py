"""Cancel dispatches. A cancelled dispatch never runs or is stopped; otherwise the cancellation is refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker_core.dispatches import State
from broker_core.errors import DispatchConflictError, UnavailableError
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import STOP, get_app

if TYPE_CHECKING:
    from broker_core.dispatches import Dispatch

logger = logging.getLogger("broker_django.tracking.cancellation")


def cancel(dispatch: Dispatch) -> None:
    """Cancel the dispatch. If it is running, its queue must have `cancel_running`.

    Raises DispatchConflictError if it cannot be cancelled, and UnavailableError if its worker does not answer.
    """
    try:
        ledger.cancel(dispatch.id)
    except DispatchConflictError:
        current = ledger.find(dispatch.id)
        if current is None or not _stop(current):
            raise


def _stop(dispatch: Dispatch) -> bool:
    """Ask the worker to stop the attempt. Returns whether it was stopped."""
    policy = conf.queues.get(dispatch.queue)
    if dispatch.state is not State.RUNNING or policy is None or not policy.cancel_running:
        return False
    try:
        replies = get_app().control.broadcast(
            STOP,
            arguments={"dispatch_id": str(dispatch.id), "attempt": dispatch.attempts},
            destination=[dispatch.worker],
            reply=True,
            timeout=conf.PUBLISH_TIMEOUT,
        )
    except Exception as error:
        logger.warning("The worker of dispatch %s cannot be asked to stop it: %s", dispatch.id, redacted(error))
        raise UnavailableError("the worker that runs the dispatch cannot be asked to stop it") from error
    answers = [answer for reply in replies or () for answer in reply.values()]
    logger.info("The worker of dispatch %s was asked to stop it: %s", dispatch.id, answers or "no answer")
    if not answers:
        raise UnavailableError("the worker that runs the dispatch does not answer, but may still stop it")
    return any("ok" in answer for answer in answers)
