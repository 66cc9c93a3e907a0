"""Publish accepted dispatches when their transaction, if any, is committed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.utils import timezone

from broker_core.redaction import redacted
from broker_django.admission.acceptance import Accepted, Repeated
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import get_app
from broker_django.messaging.publishing import publish, run_eagerly

if TYPE_CHECKING:
    from broker_core.dispatches import SealedRequest
    from broker_core.policies import QueuePolicy

logger = logging.getLogger("broker_django.admission.handover")


def publish_accepted(accepted: Accepted) -> None:
    """Publish the dispatch after the commit of its transaction, if any; never for a repetition."""
    if isinstance(accepted, Repeated):
        return
    app, policy = get_app(), conf.queues[accepted.decision.queue]

    def send() -> None:
        accepted.published = publish_now(accepted.sealed, policy)

    if app.conf.task_always_eager:
        accepted.published = True
        accepted.replayed = run_eagerly(app, accepted.sealed, policy, held=accepted.wait > 0)
    else:
        ledger.when_committed(send)


def publish_when_committed(request: SealedRequest, policy: QueuePolicy) -> None:
    """Publish a dispatch that no client waits for, after the commit. In eager mode the replay runs then."""
    app = get_app()

    def send() -> None:
        if app.conf.task_always_eager:
            run_eagerly(app, request, policy, held=False)
        else:
            publish_now(request, policy)

    ledger.when_committed(send)


def publish_now(request: SealedRequest, policy: QueuePolicy) -> bool:
    """Publish. Returns False if the message broker did not accept it; the reaper then publishes it later."""
    dispatch_id = request.dispatch.id
    if request.dispatch.publish_at is not None:
        return False
    if publish(request, policy):
        return True
    try:
        ledger.postpone(dispatch_id, timezone.now())
    except ledger.failures as error:
        text = "Dispatch %s could not be marked as unpublished; the reaper will find it after REPUBLISH_AFTER: %s"
        logger.warning(text, dispatch_id, redacted(error), extra={"dispatch_id": str(dispatch_id)})
    return False
