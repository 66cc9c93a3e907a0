"""Admission: the steps that a submission must pass before it is accepted, in this order.

A step is a function of the submission. It returns None to let it pass, or a response for the client. It raises a
BrokerError to refuse it, or NotQueueableError to run the view now.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

from django.conf import settings
from django.http.request import RawPostDataException
from django.urls import NoReverseMatch

from broker_core.errors import BodyTooLargeError, IdempotencyKeyMissingError
from broker_core.redaction import printable
from broker_django.admission import capacity, idempotency
from broker_django.conf import conf
from broker_django.identity import ownership

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_django.admission.submission import Submission

Step: TypeAlias = "Callable[[Submission], HttpResponseBase | None]"


class NotQueueableError(Exception):
    """The request cannot be queued, so its view runs now. `level` is the log level."""

    def __init__(self, reason: str, level: int = logging.WARNING) -> None:
        self.level = level
        super().__init__(reason)


def admit(submission: Submission, steps: Iterable[Step]) -> HttpResponseBase | None:
    """Returns the response of the first step that returns one, or None. Raises BrokerError and NotQueueableError."""
    for step in steps:
        response = step(submission)
        if response is not None:
            return response
    return None


def require_key(submission: Submission) -> None:
    """Refuses a malformed Idempotency-Key, and a missing one if the queue or the view requires it."""
    view = submission.view
    if (
        submission.key is None
        and view
        and idempotency.is_required(view.function, submission.method, submission.decision)
    ):
        raise IdempotencyKeyMissingError("send a unique Idempotency-Key, such as a UUID")


def require_status_url(submission: Submission) -> None:
    """Leaves the request to its view if there is no status URL: the client could not get the response."""
    try:
        is_followable = bool(submission.status_url)
    except NoReverseMatch:
        is_followable = False
    if submission.request is not None and not is_followable:
        raise NotQueueableError(_not_followable(submission.request))


def _not_followable(request: HttpRequest) -> str:
    urlconf = getattr(request, "urlconf", None) or settings.ROOT_URLCONF
    return (
        f"the broker's URLs cannot be reversed on the host {printable(ownership.host_of(request))}. "
        f'Include "broker_django.urls" in the URLconf {urlconf}, below a prefix that captures nothing.'
    )


def limit_body(submission: Submission) -> None:
    """Refuses a body that is too large. Leaves the request to its view if the body was read before."""
    try:
        size = len(submission.body)
    except RawPostDataException as error:
        raise NotQueueableError("its body was read before the broker could read it") from error
    if size > conf.MAX_BODY_SIZE:
        raise BodyTooLargeError(f"the body has {size} bytes, at most {conf.MAX_BODY_SIZE} are accepted")


def limit_load(submission: Submission) -> None:
    """Refuses if the queue is full. Acceptance checks requests with a key, because repetitions always pass."""
    if submission.key is None:
        capacity.gauges.check(submission.decision.queue)


def ask_view(submission: Submission) -> HttpResponseBase | None:
    """Returns the refusal of a view that authenticates users itself, or None."""
    return submission.refusal


PRELIMINARY: tuple[Step, ...] = (require_key, require_status_url)
"""Steps that read only the head of a request, and neither count nor change anything.

An upload passes them twice: before its body is read, and at its view, because other middleware may have changed the
request in between. "Try a request" in the admin asks them too. A step that counts goes behind `limit_body`.
"""
STEPS: tuple[Step, ...] = (*PRELIMINARY, limit_body, limit_load, ask_view)
