"""Acceptance: from a classified request to a ledger row, a published message, and the answer to the client."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import Error as DatabaseFailure
from django.db import transaction
from django.http.request import RawPostDataException
from django.urls import NoReverseMatch
from django.utils import timezone

from broker_core.errors import ReducedCapacityError, StorageError, UnavailableError
from broker_core.idempotency import verdict
from broker_core.redaction import printable, redacted
from broker_django import ledger
from broker_django.admission import capacity, idempotency
from broker_django.annotations.drf import view_class
from broker_django.annotations.view_names import view_name
from broker_django.conf import conf
from broker_django.http import raw_body, to_message
from broker_django.identity import credentials, drf, ownership, principals, sessions, users
from broker_django.identity.instances import evaluated
from broker_django.identity.owners import owner_of, untold
from broker_django.identity.users import user_key
from broker_django.ledger import bodies, tokens
from broker_django.messaging import tracing
from broker_django.messaging.celery_app import get_app
from broker_django.messaging.publishing import (
    breaker,
    publish,
    run_eagerly,
    seal_request,
    sealed_with,
    waiting_messages,
)
from broker_django.messaging.room import rooms
from broker_django.models import DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase
    from django.urls import ResolverMatch

    from broker_core.errors import BrokerError
    from broker_core.policies import Decision, QueuePolicy
    from broker_django.identity.drf import Found

logger = logging.getLogger("broker_django.admission.acceptance")


@dataclass(frozen=True, slots=True)
class View:
    """What the URL resolved to."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(slots=True)
class Accepted:
    """A dispatch in the ledger, not yet published. `carrier` has the cookies that outer middleware wants to set, `here`
    is the status URL.

    `replayed` is the view's own response where the replay ran in this process.
    """

    record: DispatchRecord
    decision: Decision
    carrier: HttpResponse
    here: str
    published: bool = False
    replayed: HttpResponseBase | None = None

    @property
    def wait(self) -> float:
        """Seconds to hold the client; none where there is nobody to wait for."""
        return _patience(self.decision) if self.published else 0.0


@dataclass(slots=True)
class Repeated(Accepted):
    """A request whose Idempotency-Key was used before, for the dispatch `record`. `fingerprint` is its own.

    `in_transaction` says that a transaction is around it, whose end the dispatch may be waiting for.
    """

    fingerprint: str = ""
    in_transaction: bool = False

    @property
    def same_request(self) -> bool:
        return self.record.fingerprint == self.fingerprint

    @property
    def refusal(self) -> BrokerError | None:
        """Why the client does not get what the first request got."""
        return verdict(self.record.current_state, same_request=self.same_request)

    @property
    def wait(self) -> float:
        """As long as the first request might have been held; not at all where the answer is there, or is a refusal."""
        coming = self.same_request and not self.record.current_state.done and not self.in_transaction
        return _patience(self.decision) if coming else 0.0


def _patience(decision: Decision) -> float:
    return min(decision.wait or 0.0, conf.MAX_WAIT)


def admit(request: HttpRequest, view: View) -> tuple[Found | None, HttpResponseBase | None]:
    """Whom the view itself authenticates, and its response where it refuses the request at the door."""
    if view_class(view.function) is None:
        return None, None
    return drf.admit(request, view.function, view.args, view.kwargs)


def accept(request: HttpRequest, view: View, decision: Decision) -> Accepted | HttpResponseBase | None:
    """Write the dispatch into the ledger, sealed.

    A response where the view refuses at the door; None where the body was consumed before the broker saw the request,
    or where nobody could ask for the response, so that only running the view now loses nothing.
    Raises BodyTooLargeError, ReducedCapacityError, UnavailableError, IdempotencyKeyError and
    IdempotencyKeyMissingError.
    """
    key = idempotency.key_of(request, view.function, decision)
    dispatch_id, now = uuid.uuid4(), timezone.now()
    try:
        here = tokens.status_url(request, dispatch_id, now)
        body = raw_body(request, conf.MAX_BODY_SIZE)
    except RawPostDataException as error:
        logger.warning("%s runs now instead of in a queue: %s", route_of(request.resolver_match), type(error).__name__)
        return None
    except NoReverseMatch:
        _warn_of_urlconf(request)
        return None
    full = _full(decision.queue, key)
    found, refusal = admit(request, view)
    if refusal is not None:
        return refusal
    cookies, carrier = sessions.save_early(request)
    user = evaluated(getattr(request, "user", None))
    record = _record(request, decision, _owner(request, user, found), now, here)
    record.credential = credentials.credential_for(
        request, record.user or None, carrier.cookies, lambda: _is_found_by_fields(request, view, found)
    )
    record.pk = dispatch_id
    message = to_message(
        request,
        body,
        user_key(user),
        cookies,
        view_user=user_key(found.user) if found is not None else None,
        route=record.route,
        view=view_name(view.function, request.method or ""),
        tenant=record.tenant,
        principal=principals.describe(request, user, found),
        accepted_at=now.timestamp(),
    )
    record.sealed = seal_request(message, str(record.pk), decision.queue)
    if key is not None:
        idempotency.mark(record, request, body, key)
    written = _write(record, full)
    if written is None:
        return None
    if written is record:
        return Accepted(record, decision, carrier, here)
    here = tokens.status_url(request, written.pk, written.accepted_at)
    outer = database.in_transaction() and not get_app().conf.task_always_eager  # which replays within it
    return Repeated(written, decision, carrier, here, fingerprint=record.fingerprint, in_transaction=outer)


def _warn_of_urlconf(request: HttpRequest) -> None:
    logger.warning(
        "%s runs now instead of in a queue: the broker's URLs cannot be reversed on the host %s. Include "
        '"broker_django.urls" in the URLconf %s, below a prefix that captures nothing.',
        route_of(request.resolver_match),
        printable(ownership.host_of(request)),
        getattr(request, "urlconf", None) or settings.ROOT_URLCONF,
    )


def _full(queue: str, key: str | None) -> ReducedCapacityError | None:
    """Why the queue takes no more, where the request has a key: a repetition takes no room. Raises it where not."""
    try:
        capacity.gauges.check(queue)
    except ReducedCapacityError as error:
        if key is None:
            raise
        return error
    return None


def _write(record: DispatchRecord, full: ReducedCapacityError | None) -> DispatchRecord | None:
    """What is in the ledger then: the dispatch, or the one that its key was used for; None where the view runs now.

    A request with a key does not run without being recorded. Raises ReducedCapacityError and UnavailableError.
    """
    try:
        return write(record) if full is None else _earlier(record, full)
    except UnavailableError as error:
        policy = conf.queues[record.queue]
        once = record.idempotency_key is not None or policy.delivery == "at_most_once"  # it may be recorded after all
        if policy.on_outage == "run_now" and not once:
            logger.error("%s runs now, it cannot be recorded: %s", record.route, redacted(error.__cause__ or error))
            return None
        logger.error("%s is refused, it cannot be recorded: %s", record.route, redacted(error.__cause__ or error))
        raise


def _earlier(record: DispatchRecord, full: ReducedCapacityError) -> DispatchRecord:
    """The dispatch that the key was used for. Raises `full` where there is none, and UnavailableError."""
    try:
        earlier = ledger.find_by_key(record.idempotency_key or "")
    except DatabaseFailure as error:
        raise UnavailableError("the ledger cannot be read") from error
    if earlier is None:
        raise full
    return earlier


def write(record: DispatchRecord) -> DispatchRecord:
    """What is in the ledger then: the dispatch, or the one that its Idempotency-Key was used for.

    Raises UnavailableError.
    """
    written = record
    if record.due_at is None and _has_no_room(record):
        record.due_at, record.published_at = record.accepted_at, None
    record.sealed_with = sealed_with(bytes(record.sealed))
    try:
        with bodies.set_aside(record):
            if record.idempotency_key is not None:
                written = ledger.accept_once(record)
            else:
                ledger.accept(record)
    except (DatabaseFailure, StorageError) as error:
        raise UnavailableError("the request cannot be recorded") from error
    if written is record:
        capacity.gauges.note(record.queue)
    elif record.sealed_file:
        bodies.delete([record.sealed_file])
    return written


def _has_no_room(record: DispatchRecord) -> bool:
    """Whether it waits in the ledger, for so many of its queue are published, or wait there before it."""
    try:
        return rooms.is_full(record.queue, lambda: ledger.holds_up(record.queue), waiting_messages)
    except DatabaseFailure:
        return True  # writing the row will tell


def _is_found_by_fields(request: HttpRequest, view: View, found: Found | None) -> bool:
    """Whether the view finds this user, a row of the project's, by nothing but what CREDENTIALS names.

    A proxy or a partner may send the same field for everybody, beside the one that says who the user is. The view is
    asked again only if there is anything else that may say it; without the credentials first, which mostly costs
    nothing.
    """
    if found is None or not users.is_row(found.user):
        return False
    if not found.by_body and not credentials.shows_more_than_named(request):
        return True
    asked = (view.function, view.args, view.kwargs)
    if user_key(drf.found(credentials.without_named(request), *asked).user) == user_key(found.user):
        return False
    return user_key(drf.found(credentials.with_named_alone(request), *asked).user) == user_key(found.user)


def _record(request: HttpRequest, decision: Decision, owner: str | None, now: datetime, here: str) -> DispatchRecord:
    return DispatchRecord(
        queue=decision.queue,
        method=(request.method or "")[:20],
        path=ledger.truncated(request.path),
        route=route_of(request.resolver_match),
        reason=decision.reason[:100],
        user=owner or "",
        host=ownership.host_in(here),
        tenant=ownership.tenant_of(request),
        **tracing.columns(request.META),
        **moments(conf.queues[decision.priority or decision.queue], now),
    )


def _owner(request: HttpRequest, user: Any, found: Found | None) -> str | None:
    """How the ledger names whose request it is; None for nobody's."""
    asks = owner_of(user)
    if found is None:
        return asks
    owner = owner_of(found.user, found.auth) or asks
    if found.again or (owner is not None and owner == asks) or not credentials.shows_anything(request):
        return owner
    return untold(user_key(found.user))


def moments(policy: QueuePolicy, now: datetime) -> dict[str, datetime | None]:
    """When a dispatch was accepted, is published, and expires."""
    waits = breaker.is_open
    return {
        "accepted_at": now,
        "published_at": None if waits else now,
        "due_at": now if waits else None,
        "expires_at": None if policy.expires is None else now + timedelta(seconds=policy.expires),
    }


def route_of(match: ResolverMatch | None) -> str:
    """The pattern of the URL, such as `/orders/<int:pk>/`."""
    route = match.route if match is not None else ""
    plain = _without_regex(route) if route.startswith("^") or "(?P" in route else f"/{route}"
    return plain[:500]


def _without_regex(route: str) -> str:
    from django.contrib.admindocs import utils  # noqa: PLC0415 - most projects do without it

    for simplify in (
        utils.remove_non_capturing_groups,
        utils.replace_named_groups,
        utils.replace_unnamed_groups,
        utils.replace_metacharacters,
    ):
        route = simplify(route)
    return route if route.startswith("/") else f"/{route}"


def hand_over(accepted: Accepted) -> None:
    """Publish when the transaction that the row was written in, if any, is committed; a repetition never."""
    if isinstance(accepted, Repeated):
        return
    app, policy = get_app(), conf.queues[accepted.decision.queue]

    def send() -> None:
        accepted.published = hand_to_message_broker(accepted.record, policy)

    if app.conf.task_always_eager:
        accepted.published = True
        accepted.replayed = run_eagerly(app, accepted.record, policy, held=accepted.wait > 0)
    else:
        transaction.on_commit(send, using=accepted.record._state.db)


def publish_when_committed(record: DispatchRecord, policy: QueuePolicy) -> None:
    """For nobody who waits; in eager mode the replay runs then."""
    app = get_app()

    def send() -> None:
        if app.conf.task_always_eager:
            run_eagerly(app, record, policy, held=False)
        else:
            hand_to_message_broker(record, policy)

    transaction.on_commit(send, using=record._state.db)


def hand_to_message_broker(record: DispatchRecord, policy: QueuePolicy) -> bool:
    """Publish what was just written; whether the message broker has it. If not, the reaper publishes it later."""
    if record.due_at is not None:
        return False
    if publish(record, policy):
        return True
    try:
        ledger.put_off(record.pk, timezone.now())
    except DatabaseFailure as error:
        logger.warning("Dispatch %s counts as published until the reaper misses it: %s", record.pk, redacted(error))
    return False
