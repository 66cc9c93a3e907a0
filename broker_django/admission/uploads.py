"""Read the body of an upload early, because CsrfViewMiddleware parses forms before the view is resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.urls import Resolver404, resolve

from broker_core.errors import BodyTooLargeError, BrokerError
from broker_django.admission.steps import PRELIMINARY, NotQueueableError, admit, limit_body
from broker_django.admission.submission import ClientSubmission
from broker_django.context import View, replay_of
from broker_django.dispatcher import decide
from broker_django.http import problem

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

MULTIPART = "multipart/form-data"


def may_keep_body(request: HttpRequest) -> bool:
    """Whether `keep_body` must check the request, which may query the database or read a stream."""
    return request.content_type == MULTIPART and replay_of(request) is None


def keep_body(request: HttpRequest) -> HttpResponse | None:
    """Read the raw body of a form if the request will be queued. Other uploads are still streamed.

    Returns a response if the body is too large. Other steps of admission refuse the request later.
    """
    submission = _submission_of(request) if may_keep_body(request) else None
    if submission is None:
        return None
    try:
        admit(submission, (*PRELIMINARY, limit_body))
    except BodyTooLargeError as error:
        return problem(error)
    except (BrokerError, NotQueueableError):
        return None
    return None


def _submission_of(request: HttpRequest) -> ClientSubmission | None:
    """Returns the submission of a request before its view is resolved; None if the view will run now."""
    try:
        match = resolve(request.path_info, getattr(request, "urlconf", None))
    except Resolver404:
        return None
    request.resolver_match = match  # as in `process_view`
    decision = decide(request, match.func)
    if decision is None or not decision.queued:
        return None
    return ClientSubmission(request, View(match.func, match.args, match.kwargs), decision)
