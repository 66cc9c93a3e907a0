"""The task that replays a dispatch."""

from __future__ import annotations

import logging
import time
import uuid
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Task, shared_task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from django.utils import timezone

from broker_core.dispatches import Outcome, Run, State
from broker_core.errors import (
    DispatchFailedError,
    EnvelopeError,
    MessageError,
    StorageError,
    StoredRequestAlteredError,
    StoredRequestError,
    UnknownKeyError,
)
from broker_core.message import RequestMessage
from broker_core.redaction import printable, redacted
from broker_django.conf import conf
from broker_django.context import Replay
from broker_django.ledger import bodies, ledger
from broker_django.messaging import tracing
from broker_django.messaging.celery_app import TASK, queue_of_delivery
from broker_django.messaging.sealing import from_text, open_reference, open_request, seal_response
from broker_django.models.moments import moment
from workers.databases import connections
from workers.replaying import error_reports
from workers.replaying.isolation import isolated
from workers.replaying.leases import leases
from workers.replaying.outcomes import (
    PATIENCE,
    LedgerSilentError,
    late,
    longest_pause,
    persistently,
    seconds_left,
    seconds_to_soft_limit,
)
from workers.replaying.replay import run, unanswered
from workers.replaying.time_limits import past_soft_limit, raise_if_past_soft_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from broker_core.policies import QueuePolicy
    from workers.replaying.replay import Answer

logger = logging.getLogger("workers.tasks")


class ReplayTask(Task):  # type: ignore[type-arg]
    """Updates the ledger if something other than the view failed."""

    abstract = True
    Request = "workers.replaying.celery_request:ReplayRequest"

    def on_failure(self, exc: Exception, task_id: str, _args: Any, _kwargs: Any, _einfo: Any) -> None:
        if isinstance(exc, DispatchFailedError):  # already in the ledger
            return
        attempt = getattr(self.request, "attempt", None)
        extra = error_reports.log_extra(task_id) if attempt else {"dispatch_id": task_id}
        logger.error("Dispatch %s failed: %s", task_id, redacted(exc), extra=extra)
        with past_soft_limit():
            state = ledger.give_up(uuid.UUID(task_id), Run(attempt), type(exc).__name__) if attempt else None
        if state is State.FAILED:
            error_reports.report_failure_of(uuid.UUID(task_id), exc)


@shared_task(
    bind=True,
    base=ReplayTask,
    name=TASK,
    acks_late=True,
    acks_on_failure_or_timeout=True,
    reject_on_worker_lost=True,
    ignore_result=True,
    store_errors_even_if_ignored=False,
    throws=(DispatchFailedError,),
    track_started=False,
    resultrepr_maxsize=96,
    max_retries=None,
)
def replay(self: Any, /, sealed: object = None, *_unknown: object, **_unknown_too: object) -> dict[str, Any]:
    """Open, claim and run the request, and store the sealed response. Returns what Flower shows.

    Celery itself stores no result. The response and the state in the ledger are stored in one transaction.
    """
    request, task_id = self.request, self.request.id
    request.broker_began = time.monotonic()
    queue, sealed_request = _open(task_id, request.delivery_info, sealed)
    dispatch_id, policy = uuid.UUID(task_id), conf.queues[queue]
    with leases.held(dispatch_id, policy):
        attempt = _claim(request, dispatch_id, policy)
        with error_reports.attempt(dispatch_id, queue, attempt, tracing.of_task(request)):
            raise_if_past_soft_limit(request)
            answer = _answer(request, sealed_request, dispatch_id, queue, attempt)
            file = sealed_request if isinstance(sealed_request, str) else ""
            with past_soft_limit():
                return _conclude(request, Attempt(dispatch_id, attempt, policy, timezone.now(), file), answer)


def _claim(request: Any, dispatch_id: uuid.UUID, policy: QueuePolicy) -> int:
    """Returns the attempt number. Raises Ignore if there is nothing to run, Reject if the ledger does not answer."""
    worker, asked = request.hostname or "", timezone.now()
    if not request.is_eager:
        connections.drop_unfit()
    attempt = _ask_ledger(request, lambda: ledger.claim(dispatch_id, policy, worker, first_asked=asked), dispatch_id)
    if not attempt:
        if ledger.close(dispatch_id, policy) is State.FAILED:
            error_reports.report_failure_of(dispatch_id)
        _log_dropped(dispatch_id)
        raise Ignore
    request.attempt = attempt
    return attempt


def _log_dropped(dispatch_id: uuid.UUID) -> None:
    if ledger.find(dispatch_id) is not None:
        logger.info("Dispatch %s is dropped: it was delivered before, cancelled or expired", dispatch_id)
        return
    text = "Dispatch %s is dropped: it is not in the ledger of this worker. Do the web processes use another database?"
    logger.warning(text, dispatch_id, extra={"dispatch_id": str(dispatch_id)})


def _ask_ledger(request: Any, statement: Callable[[], int], dispatch_id: uuid.UUID) -> int:
    """Returns the ledger's answer. Raises Reject, so that the message stays queued, if it is silent for too long."""
    if request.is_eager:
        return statement()
    try:
        return persistently(statement, str(dispatch_id), min(PATIENCE, seconds_to_soft_limit(request)))
    except (LedgerSilentError, SoftTimeLimitExceeded) as error:
        logger.error("Dispatch %s is returned to its queue, because the ledger does not answer: %s", dispatch_id, error)
        with past_soft_limit():
            time.sleep(longest_pause())  # a queue with a short time limit would otherwise be read again at once
        raise Reject(str(error), requeue=True) from error


def _answer(task: Any, request: RequestMessage | str, dispatch_id: uuid.UUID, queue: str, attempt: int) -> Answer:
    """Returns the view's answer, or why it could not run. `request` may be the name of a file that contains the
    request.

    Another worker may have access to a storage or a key that this one does not have.
    """
    try:
        message = _read(request, str(dispatch_id), queue) if isinstance(request, str) else request
    except (StoredRequestError, StorageError) as error:
        logger.error(
            "Dispatch %s is not run: %s", dispatch_id, redacted(error), extra=error_reports.log_extra(dispatch_id)
        )
        return unanswered(error, unknown_here=not isinstance(error, StoredRequestAlteredError))
    replay = _replay_of(message, dispatch_id, queue, attempt, eager=task.is_eager)
    if task.is_eager:
        return run(message, replay)
    return _replay_isolated(message, replay, tracing.of_task(task))


def _replay_of(message: RequestMessage, dispatch_id: uuid.UUID, queue: str, attempt: int, *, eager: bool) -> Replay:
    return Replay(
        dispatch_id,
        queue,
        attempt,
        message.user,
        message.view_user,
        view=message.view,
        route=message.route,
        tenant=message.tenant,
        principal=message.principal,
        accepted_at=moment(message.accepted_at) if message.accepted_at else None,
        eager=eager,
    )


def _replay_isolated(message: RequestMessage, replay: Replay, trace: dict[str, str]) -> Answer:
    """Runs in isolation. Errors while the process state is restored do not change the outcome."""
    answers: list[Answer] = []
    try:
        isolated(lambda: answers.append(_replay_traced(message, replay, trace)))
        connections.clean()
    except Exception as error:
        if not answers:
            raise
        extra = {"dispatch_id": str(replay.id)}
        logger.error("The process state after dispatch %s cannot be restored", replay.id, exc_info=error, extra=extra)
    return answers[0]


def _replay_traced(message: RequestMessage, replay: Replay, trace: dict[str, str]) -> Answer:
    tracing.enter(trace)
    return run(message, replay)


def _read(file: str, dispatch_id: str, queue: str) -> RequestMessage:
    """Raises StorageError and StoredRequestError; StoredRequestAlteredError if no worker could read the request."""
    try:
        return RequestMessage.decode(open_request(bodies.read(file), dispatch_id, queue))
    except UnknownKeyError as error:
        raise StoredRequestError(f"the stored request body cannot be opened: {error}") from error
    except EnvelopeError as error:
        raise StoredRequestAlteredError("the stored request body was altered") from error
    except MessageError as error:
        raise StoredRequestError(f"the stored request body was written by an incompatible release: {error}") from error


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt of this process that has ended. `file` contains the request if it was too large for a message."""

    dispatch_id: uuid.UUID
    number: int
    policy: QueuePolicy
    ended_at: datetime
    file: str = ""

    @property
    def run(self) -> Run:
        return Run(self.number)


def _conclude(request: Any, attempt: Attempt, answer: Answer) -> dict[str, Any]:
    """Record how the attempt ended. Raises Celery's Retry if another attempt follows, and DispatchFailedError if the
    dispatch failed for good.
    """
    dispatch_id = str(attempt.dispatch_id)
    sealed = seal_response(answer.response, dispatch_id, attempt.number)
    if request.is_eager:
        due = _end(request, attempt, answer, sealed)
    else:
        try:
            due = persistently(lambda: _end(request, attempt, answer, sealed), dispatch_id, seconds_left(request))
        except LedgerSilentError:
            late.record(dispatch_id, partial(copy_context().run, _end_late, request, attempt, answer, sealed))
            shown = {"status": answer.response.status, "error": answer.error, "attempt": attempt.number}
            return {**shown, "recorded": False}
    if due is not None:
        raise Retry(answer.error, when=due)
    if answer.error:
        raise DispatchFailedError(answer.error)
    return {"status": answer.response.status, "size": len(answer.response.body), "attempt": attempt.number}


def _end_late(request: Any, attempt: Attempt, answer: Answer, sealed: str) -> None:
    with leases.held(attempt.dispatch_id, attempt.policy, attempt.number):
        _end(request, attempt, answer, sealed)


def _end(request: Any, attempt: Attempt, answer: Answer, sealed: str) -> datetime | None:
    """Retry or conclude the attempt in the ledger. Returns when the next attempt is due, or None if it was the last.

    Deletes the file of a request that succeeded. Raises the failures of the ledger.
    """
    due = None if request.is_eager else _retry(attempt, answer)
    if due is None:
        ended = _record(request, attempt, answer, sealed)
        if not ended:
            logger.warning(
                "Dispatch %s was taken over by another worker, or cancelled, before attempt %d ended",
                attempt.dispatch_id,
                attempt.number,
            )
        elif answer.error:
            text, extra = "Dispatch %s failed for good in attempt %d: %s", error_reports.log_extra(attempt.dispatch_id)
            logger.error(text, attempt.dispatch_id, attempt.number, answer.error, extra=extra)
            error_reports.report_failure(answer.error)
        else:
            error_reports.report_success()
            if attempt.file:
                ledger.when_committed(partial(bodies.delete, [attempt.file]))
    return due


def _retry(attempt: Attempt, answer: Answer) -> datetime | None:
    """Returns when the dispatch is due again; None if it is not retried."""
    if answer.unknown_here:
        due = ledger.hand_back(attempt.dispatch_id, attempt.run, answer.error, first_asked=attempt.ended_at)
        what = "is handed back"
    else:
        due = ledger.retry(
            attempt.dispatch_id, attempt.run, attempt.policy, answer.outcome, first_asked=attempt.ended_at
        )
        what = f"failed in attempt {attempt.number}"
    if due is not None:
        logger.info("Dispatch %s %s and is due at %s: %s", attempt.dispatch_id, what, due.isoformat(), answer.error)
    return due


def _record(request: Any, attempt: Attempt, answer: Answer, sealed: str) -> bool:
    """Record the outcome with its response, or without it if the result store refuses this response."""
    number, policy, outcome = attempt.number, attempt.policy, answer.outcome
    try:
        return ledger.conclude(
            attempt.dispatch_id, number, policy, outcome, sealed, task=request, first_asked=attempt.ended_at
        )
    except ledger.refusals as error:
        text, extra = "The response of dispatch %s cannot be stored: %s", error_reports.log_extra(attempt.dispatch_id)
        logger.error(text, attempt.dispatch_id, redacted(error), extra=extra)
        reason = f"the response cannot be stored: {type(error).__name__}"
        refused = Outcome(error=reason)
        finished = ledger.conclude(attempt.dispatch_id, number, policy, refused, first_asked=attempt.ended_at)
        if finished:
            error_reports.report_failure(answer.error or reason)
        return finished


def _open(task_id: str, delivery: Mapping[str, Any], sealed: object) -> tuple[str, RequestMessage | str]:
    """Returns the queue, and the message or the name of the file that contains it.

    Raises Ignore if it was not sealed here for this id and this queue. Not Reject, because Celery would store a failure
    under an id that may belong to another dispatch.
    """
    try:
        queue = queue_of_delivery(delivery)
        envelope, dispatch_id = from_text(sealed if isinstance(sealed, str) else ""), str(task_id)
        try:
            return queue, RequestMessage.decode(open_request(envelope, dispatch_id, queue))
        except EnvelopeError:
            return queue, open_reference(envelope, dispatch_id, queue)
    except (EnvelopeError, MessageError, KeyError, ValueError, TypeError) as error:
        key, shown_id = (printable(str(text)[:100]) for text in (delivery.get("routing_key"), task_id))
        logger.error("Task %s on %s is refused: %s", shown_id, key, redacted(error), extra={"dispatch_id": shown_id})
        raise Ignore from error
