"""Dispatches that are made by code: `broker_django.dispatch`."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.http import HttpRequest
from django.http.request import RawPostDataException
from django.urls import Resolver404, resolve
from django.utils import timezone

from broker_core.errors import BodyTooLargeError, ConfigurationError, MessageError
from broker_django import ledger, load, sessions
from broker_django.acceptance import moments, publish_when_committed, route_of, trace_of, write
from broker_django.conf import conf
from broker_django.context import replay_of, user_key
from broker_django.delivery import seal_request
from broker_django.http import raw_body, to_message
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from django.urls import ResolverMatch

    from broker_core.message import RequestMessage


def dispatch(request_or_message: HttpRequest | RequestMessage, *, queue: str) -> DispatchRecord:
    """What `broker_django.dispatch` does."""
    policy = conf.queues.get(queue)
    if policy is None:
        raise ConfigurationError(f"there is no queue {queue!r}; there are {', '.join(conf.queues)}")
    _refuse_nonsense(request_or_message)
    load.gauges.check(queue)
    record = DispatchRecord(id=uuid.uuid4(), queue=queue, reason="code", **moments(policy, timezone.now()))
    if isinstance(request_or_message, HttpRequest):
        message = _message(request_or_message)
        record.route = route_of(request_or_message.resolver_match)
        record.credential = next(iter(sessions.credentials(request_or_message)), "")
    else:
        message = request_or_message
        record.route = route_of(_match(message))
    record.method = message.method[:20]
    record.path = ledger.truncated(message.environ.get("SCRIPT_NAME", "") + message.environ.get("PATH_INFO", "/"))
    record.user = message.view_user or message.user or ""
    record.trace_id = trace_of(message.environ)
    record.sealed = seal_request(message, str(record.pk), queue)
    write(record)
    publish_when_committed(record, policy)
    return record


def _refuse_nonsense(given: HttpRequest | RequestMessage) -> None:
    """Raises MessageError and BodyTooLargeError."""
    if isinstance(given, HttpRequest):
        if replay_of(given) is not None:
            raise MessageError("a request that is being replayed would be dispatched for ever: ask broker.replayed")
        return
    if not {"REQUEST_METHOD", "PATH_INFO"} <= given.environ.keys():
        raise MessageError("the environ of a message needs REQUEST_METHOD and PATH_INFO")
    if len(given.body) > conf.MAX_BODY_SIZE:
        raise BodyTooLargeError(f"the body has {len(given.body)} bytes, at most {conf.MAX_BODY_SIZE} are accepted")


def _message(request: HttpRequest) -> RequestMessage:
    try:
        body = raw_body(request, conf.MAX_BODY_SIZE)
    except RawPostDataException as error:
        raise MessageError("the body of the request was read before, and is not there any more") from error
    return to_message(request, body, user_key(getattr(request, "user", None)), {})


def _match(message: RequestMessage) -> ResolverMatch | None:
    try:
        return resolve(message.environ.get("PATH_INFO", "/"))
    except Resolver404:
        return None
