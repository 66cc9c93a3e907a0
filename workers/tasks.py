"""The task that replays a dispatch."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded
from celery import Task, shared_task
from celery.exceptions import Ignore

from broker_core.errors import EnvelopeError, MessageError
from broker_core.message import RequestMessage
from broker_django import ledger
from broker_django.celery_app import TASK, queue_of_delivery
from broker_django.conf import conf
from broker_django.context import Replay
from broker_django.delivery import from_text, open_request, seal_response
from broker_django.notifications import announce
from workers.replay import run

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("workers.tasks")


class ReplayTask(Task):  # type: ignore[type-arg]
    """Finishes the dispatch in the ledger: once Celery has stored the response, or when it gave the task up."""

    abstract = True
    Request = "workers.requests:ReplayRequest"

    def on_success(self, retval: dict[str, Any], task_id: str, _args: Any, _kwargs: Any) -> None:
        dispatch_id = uuid.UUID(task_id)
        finished = getattr(self.request, "finished", None)  # by the result backend, in the transaction of the result
        if finished is None:
            finished = ledger.finish(dispatch_id, retval["attempt"], ledger.Outcome.of(retval))
        if not finished:
            logger.warning("Dispatch %s was taken over before attempt %d ended", task_id, retval["attempt"])
        self._tell(dispatch_id)

    def on_failure(self, exc: Exception, task_id: str, _args: Any, _kwargs: Any, _einfo: Any) -> None:
        """The replay was killed at its hard time limit, or what came after it failed."""
        logger.error("Dispatch %s failed: %r", task_id, exc, extra={"dispatch_id": task_id})
        dispatch_id = uuid.UUID(task_id)
        ours = isinstance(exc, TimeLimitExceeded) or getattr(self.request, "claimed", False)
        if ours and ledger.give_up(dispatch_id, type(exc).__name__):
            self._tell(dispatch_id)

    def _tell(self, dispatch_id: uuid.UUID) -> None:
        if not self.request.is_eager:
            announce(dispatch_id)


@shared_task(
    bind=True,
    base=ReplayTask,
    name=TASK,
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=False,
    store_eager_result=True,
    track_started=False,
    resultrepr_maxsize=96,
    max_retries=0,
)
def replay(self: Any, /, sealed: object = None, *_unknown: object, **_unknown_too: object) -> dict[str, Any]:
    """Open, claim, run, and give the sealed response. The response's facts are in clear, for Flower."""
    task_id = self.request.id
    queue, message = _open(task_id, self.request.delivery_info, sealed)
    dispatch_id = uuid.UUID(task_id)
    attempt = ledger.claim(dispatch_id, conf.queues[queue], self.request.hostname or "")
    if not attempt:
        ledger.expire(dispatch_id)
        logger.info("Dispatch %s is dropped: it was delivered before, or nobody wants it any more", task_id)
        raise Ignore
    self.request.claimed = True
    response, error = run(message, Replay(dispatch_id, queue, attempt, message.user, message.view_user))
    return {
        "status": response.status,
        "content_type": response.content_type,
        "size": len(response.body),
        "error": error,
        "attempt": attempt,
        "sealed": seal_response(response, task_id),
    }


def _open(task_id: str, delivery: Mapping[str, Any], sealed: object) -> tuple[str, RequestMessage]:
    """The queue and the message. Raises Ignore for what was not sealed here, for this id and this queue.

    Not Reject: Celery would store a failure under an id that may be another dispatch's.
    """
    try:
        queue = queue_of_delivery(delivery)
        return queue, RequestMessage.decode(open_request(from_text(str(sealed)), str(uuid.UUID(task_id)), queue))
    except (EnvelopeError, MessageError, KeyError, ValueError, TypeError) as error:
        came_on = delivery.get("routing_key")
        logger.error("Task %s on %s is refused: %s", task_id, came_on, error, extra={"dispatch_id": task_id})
        raise Ignore from error
