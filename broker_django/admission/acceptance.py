"""Accept admitted submissions: write a dispatch for each into the ledger.

The 202 itself is made in `tracking.answers`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from broker_core.dispatches import Dispatch, SealedRequest, truncated
from broker_core.errors import ReducedCapacityError, StorageError, UnavailableError
from broker_core.idempotency import verdict
from broker_core.redaction import redacted
from broker_django.admission import capacity
from broker_django.admission.steps import STEPS, NotQueueableError, admit
from broker_django.conf import conf
from broker_django.ledger import bodies, ledger, tokens
from broker_django.messaging import tracing
from broker_django.messaging.celery_app import get_app
from broker_django.messaging.publish_limits import publish_limits
from broker_django.messaging.publishing import breaker, waiting_messages
from broker_django.messaging.sealing import seal_request, sealed_with

if TYPE_CHECKING:
    from datetime import datetime

    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    from broker_core.errors import BrokerError
    from broker_core.policies import Decision, QueuePolicy
    from broker_django.admission.submission import Submission

logger = logging.getLogger("broker_django.admission.acceptance")


@dataclass(slots=True)
class Accepted:
    """A dispatch in the ledger that is not published yet.

    carrier: a response with the cookies that outer middleware sets. here: the status URL. replayed: the view's own
    response, if the replay ran in this process.
    """

    sealed: SealedRequest
    decision: Decision
    carrier: HttpResponse
    here: str
    published: bool = False
    replayed: HttpResponseBase | None = None

    @property
    def dispatch(self) -> Dispatch:
        return self.sealed.dispatch

    @property
    def wait(self) -> float:
        """Seconds that the client waits; 0 if the dispatch is not published."""
        return _longest_wait(self.decision) if self.published else 0.0


@dataclass(slots=True)
class Repeated(Accepted):
    """A request whose Idempotency-Key belongs to this dispatch. `fingerprint` is that of this request.

    in_transaction: whether a transaction is open. The dispatch may be published only when it is committed.
    """

    fingerprint: str = ""
    in_transaction: bool = False

    @property
    def same_request(self) -> bool:
        return self.dispatch.fingerprint == self.fingerprint

    @property
    def refusal(self) -> BrokerError | None:
        """Returns why the client does not get the response of the first request, or None if it does."""
        return verdict(self.dispatch.state, same_request=self.same_request)

    @property
    def wait(self) -> float:
        """As long as the first request may have waited; 0 if the dispatch is done, or this request is refused."""
        may_wait = self.same_request and not self.dispatch.state.done and not self.in_transaction
        return _longest_wait(self.decision) if may_wait else 0.0


def _longest_wait(decision: Decision) -> float:
    return min(decision.wait or 0.0, conf.MAX_WAIT)


def accept(submission: Submission) -> Accepted | HttpResponseBase:
    """Admit a submission and write its dispatch into the ledger. Returns a response if a step of admission answers.

    Raises NotQueueableError if the view has to run now, and the BrokerErrors of the steps, UnavailableError among them.
    """
    response = admit(submission, STEPS)
    if response is not None:
        return response
    carrier = submission.carrier  # saves the session, before the user is read
    sealed = sealed_of(submission)
    written = _record(submission, sealed)
    request, decision = submission.request, submission.decision
    if written.dispatch.id == submission.id or request is None:
        return Accepted(written, decision, carrier, submission.status_url)
    return _repeated(request, written.dispatch, decision, carrier, sealed.dispatch.fingerprint)


def _repeated(
    request: HttpRequest, earlier: Dispatch, decision: Decision, carrier: HttpResponse, fingerprint: str
) -> Repeated:
    here = tokens.status_url(request, earlier.id, earlier.accepted_at)
    outer = ledger.in_transaction() and not get_app().conf.task_always_eager  # eager replays run within it
    sealed = SealedRequest(earlier)
    return Repeated(sealed, decision, carrier, here, fingerprint=fingerprint, in_transaction=outer)


def sealed_of(submission: Submission) -> SealedRequest:
    """Returns the dispatch of a submission with its sealed request, not yet written."""
    decision = submission.decision
    dispatch = Dispatch(
        id=submission.id,
        queue=decision.queue,
        accepted_at=submission.moment,
        reason=decision.reason[:100],
        method=submission.method[:20],
        path=truncated(submission.path),
        route=submission.route,
        user=submission.owner or "",
        credential=submission.credential,
        host=submission.host,
        tenant=submission.tenant,
        idempotency_key=submission.scope,
        fingerprint=submission.fingerprint,
        **tracing.columns(submission.environ),
        **moments(conf.queues[decision.priority or decision.queue], submission.moment),
    )
    content = seal_request(submission.message, str(submission.id), decision.queue)
    return SealedRequest(dispatch, content, seal=sealed_with(content))


def _record(submission: Submission, sealed: SealedRequest) -> SealedRequest:
    """Returns the dispatch in the ledger: this one, or the one that has its Idempotency-Key.

    Raises ReducedCapacityError, UnavailableError, and NotQueueableError if the view runs without being recorded.
    """
    dispatch = sealed.dispatch
    try:
        return write(sealed) if dispatch.idempotency_key is None else _write_once(sealed)
    except UnavailableError as error:
        reason = redacted(error.__cause__ or error)
        if submission.request is not None and _runs_in_an_outage(dispatch):
            raise NotQueueableError(f"it cannot be recorded: {reason}", logging.ERROR) from error
        logger.error("%s is refused, because it cannot be recorded: %s", dispatch.route, reason)
        raise


def _runs_in_an_outage(dispatch: Dispatch) -> bool:
    """Whether the view may run although it is unknown if its dispatch was recorded."""
    policy = conf.queues[dispatch.queue]
    once = dispatch.idempotency_key is not None or policy.delivery == "at_most_once"
    return policy.on_outage == "run_now" and not once


def _write_once(sealed: SealedRequest) -> SealedRequest:
    """Returns this dispatch, or the one that has its key, which needs no capacity.

    Raises ReducedCapacityError and UnavailableError.
    """
    try:
        capacity.gauges.check(sealed.dispatch.queue)
    except ReducedCapacityError as full:
        return _find_by_key(sealed.dispatch, full)
    return write(sealed)


def _find_by_key(dispatch: Dispatch, full: ReducedCapacityError) -> SealedRequest:
    """Returns the dispatch with this key. Raises `full` if it does not exist, and UnavailableError."""
    try:
        earlier = ledger.find_by_key(dispatch.idempotency_key or "")
    except ledger.failures as error:
        raise UnavailableError("the ledger cannot be read") from error
    if earlier is None:
        raise full
    return SealedRequest(earlier)


def write(sealed: SealedRequest) -> SealedRequest:
    """Returns the dispatch in the ledger: this one, or the one that has its Idempotency-Key.

    Raises UnavailableError.
    """
    dispatch = sealed.dispatch
    if dispatch.publish_at is None and _must_wait(dispatch):
        dispatch = replace(dispatch, due_at=dispatch.accepted_at, published_at=None)
    kept, written = _insert(replace(sealed, dispatch=dispatch))
    if written.id == dispatch.id:
        capacity.gauges.count_accepted(dispatch.queue)
        return kept
    if kept.file:
        bodies.delete([kept.file])
    return SealedRequest(written)


def _insert(sealed: SealedRequest) -> tuple[SealedRequest, Dispatch]:
    """Returns the request as it is stored, and the dispatch in the ledger."""
    failures: tuple[type[Exception], ...] = (StorageError, *ledger.failures)
    kept = sealed
    try:
        kept = bodies.set_aside(sealed)
        return kept, ledger.accept(kept)
    except BaseException as error:
        if kept.file and not _is_recorded(kept.dispatch, error):
            bodies.delete([kept.file])
        if isinstance(error, failures):
            raise UnavailableError("the request cannot be recorded") from error
        raise


def _is_recorded(dispatch: Dispatch, error: BaseException) -> bool:
    """Whether the ledger has the dispatch despite this error: a receiver of its signal may have raised SystemExit."""
    if isinstance(error, Exception):
        return False
    try:
        return ledger.sealed(dispatch.id) is not None
    except ledger.failures:
        return True  # if the ledger does not have it, housekeeping deletes the file later


def _must_wait(dispatch: Dispatch) -> bool:
    """Whether it waits in the ledger, because its queue has reached `max_published` or earlier ones wait there."""
    try:
        return publish_limits.is_full(dispatch.queue, lambda: ledger.holds_up(dispatch.queue), waiting_messages)
    except ledger.failures:
        return True  # if the database is down, writing the row fails


def moments(policy: QueuePolicy, now: datetime) -> dict[str, Any]:
    """Returns when a dispatch is published, and expires."""
    must_wait = breaker.is_open
    return {
        "published_at": None if must_wait else now,
        "due_at": now if must_wait else None,
        "expires_at": None if policy.expires is None else now + timedelta(seconds=policy.expires),
    }
