"""The task that replays a dispatch."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from celery import Task, shared_task
from celery.exceptions import Ignore, Retry
from django.db import InterfaceError, OperationalError, connections
from django.utils import timezone

from broker_core.errors import EnvelopeError, MessageError, StorageError, StoredRequestError, UnknownKeyError
from broker_core.message import RequestMessage
from broker_core.redaction import redacted
from broker_django import ledger, results, sealed_storage
from broker_django.celery_app import TASK, queue_of_delivery
from broker_django.conf import conf
from broker_django.context import Replay
from broker_django.delivery import from_text, open_reference, open_request, seal_response
from broker_django.notifications import announce
from workers.leases import leases
from workers.replay import run, unanswered
from workers.time_limits import past_soft_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker_core.policies import QueuePolicy
    from workers.replay import Answer

T = TypeVar("T")

logger = logging.getLogger("workers.tasks")

PATIENCE = 120.0
"""Seconds for which a worker tries to tell the ledger something while the database does not answer."""
LONGEST_PAUSE = 2.0


class ReplayTask(Task):  # type: ignore[type-arg]
    """Tells the ledger when something else than the view failed."""

    abstract = True
    Request = "workers.requests:ReplayRequest"

    def on_failure(self, exc: Exception, task_id: str, _args: Any, _kwargs: Any, _einfo: Any) -> None:
        logger.error("Dispatch %s failed: %s", task_id, redacted(exc), extra={"dispatch_id": task_id})
        attempt = getattr(self.request, "attempt", None)
        if attempt and ledger.give_up(uuid.UUID(task_id), ledger.Run(attempt), type(exc).__name__):
            announce(uuid.UUID(task_id))


@shared_task(
    bind=True,
    base=ReplayTask,
    name=TASK,
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=True,
    track_started=False,
    resultrepr_maxsize=96,
    max_retries=None,
)
def replay(self: Any, /, sealed: object = None, *_unknown: object, **_unknown_too: object) -> dict[str, Any]:
    """Open, claim, run, and store the sealed response. Gives what Flower shows of it.

    Celery itself stores no result: the response and the state in the ledger are stored together, or neither is.
    """
    task_id = self.request.id
    queue, request = _open(task_id, self.request.delivery_info, sealed)
    file = request if isinstance(request, str) else ""
    dispatch_id, policy = uuid.UUID(task_id), conf.queues[queue]
    worker, asked = self.request.hostname or "", timezone.now()
    attempt = _persistently(lambda: ledger.claim(dispatch_id, policy, worker, first_asked=asked), self.request)
    if not attempt:
        ledger.close(dispatch_id, policy)
        logger.info("Dispatch %s is dropped: it was delivered before, or nobody wants it any more", task_id)
        raise Ignore
    self.request.attempt = attempt
    with leases.held(dispatch_id, attempt, policy):
        answer = _answer(request, dispatch_id, queue, attempt)
        with past_soft_limit():
            return _conclude(self.request, dispatch_id, attempt, policy, answer, file)


def _answer(request: RequestMessage | str, dispatch_id: uuid.UUID, queue: str, attempt: int) -> Answer:
    """Of the view; or why it could not be run, where the request lies in a file of this name."""
    try:
        message = _read(request, str(dispatch_id), queue) if isinstance(request, str) else request
    except (StoredRequestError, StorageError) as error:
        logger.error("Dispatch %s is not run: %s", dispatch_id, error, extra={"dispatch_id": str(dispatch_id)})
        may_heal = isinstance(error, StorageError) or isinstance(error.__cause__, UnknownKeyError)
        return unanswered(error, retriable=may_heal)
    return run(message, Replay(dispatch_id, queue, attempt, message.user, message.view_user))


def _read(file: str, dispatch_id: str, queue: str) -> RequestMessage:
    """Raises StoredRequestError and StorageError."""
    try:
        return RequestMessage.decode(open_request(sealed_storage.read(file), dispatch_id, queue))
    except UnknownKeyError as error:
        raise StoredRequestError(f"the stored request body cannot be opened: {error}") from error
    except (EnvelopeError, MessageError) as error:
        raise StoredRequestError("the stored request body was altered") from error


def _conclude(
    request: Any, dispatch_id: uuid.UUID, attempt: int, policy: QueuePolicy, answer: Answer, file: str
) -> dict[str, Any]:
    """Record how the attempt ended; the file of a request that succeeded goes. Raises Celery's Retry where there is to
    be another attempt.
    """
    outcome = answer.outcome
    if not request.is_eager:
        due = _persistently(lambda: ledger.retry(dispatch_id, ledger.Run(attempt), policy, outcome), request)
        if due is not None:
            logger.info("Dispatch %s: attempt %d failed, the next is due at %s", dispatch_id, attempt, due.isoformat())
            announce(dispatch_id)
            raise Retry(outcome.error, when=due)
    sealed = seal_response(answer.response, str(dispatch_id))
    ended = _persistently(lambda: results.conclude(dispatch_id, attempt, policy, outcome, sealed, request), request)
    if not ended:
        logger.warning("Dispatch %s was taken over or cancelled before attempt %d ended", dispatch_id, attempt)
    elif outcome.error:
        told = {"dispatch_id": str(dispatch_id)}
        logger.error("Dispatch %s failed for good in attempt %d: %s", dispatch_id, attempt, outcome.error, extra=told)
    if not request.is_eager:
        announce(dispatch_id)
    if ended and file and not outcome.error:
        sealed_storage.delete_on_commit([file])
    return {"status": outcome.status, "size": outcome.size, "error": outcome.error, "attempt": attempt}


def _persistently(tell: Callable[[], T], request: Any) -> T:
    """What the ledger says, even if the database has to come back first."""
    deadline, pause = time.monotonic() + PATIENCE, 0.1
    while True:
        try:
            return tell()
        except (OperationalError, InterfaceError) as error:
            if request.is_eager or time.monotonic() + pause > deadline:
                raise
            logger.warning("The ledger does not answer, dispatch %s waits for it: %s", request.id, redacted(error))
            connections.close_all()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _open(task_id: str, delivery: Mapping[str, Any], sealed: object) -> tuple[str, RequestMessage | str]:
    """The queue, and the message or the name of the file that it lies in.

    Raises Ignore for what was not sealed here, for this id and this queue.

    Not Reject: Celery would store a failure under an id that may be another dispatch's.
    """
    try:
        queue = queue_of_delivery(delivery)
        envelope, dispatch_id = from_text(sealed if isinstance(sealed, str) else ""), str(task_id)
        try:
            return queue, RequestMessage.decode(open_request(envelope, dispatch_id, queue))
        except EnvelopeError:
            return queue, open_reference(envelope, dispatch_id, queue)
    except (EnvelopeError, MessageError, KeyError, ValueError, TypeError) as error:
        came_on = _on_one_line(delivery.get("routing_key"))
        told = _on_one_line(task_id)
        logger.error("Task %s on %s is refused: %s", told, came_on, redacted(error), extra={"dispatch_id": told})
        raise Ignore from error


def _on_one_line(text: object) -> str:
    """Anybody may have written it who can write to the message broker."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text)[:100])
