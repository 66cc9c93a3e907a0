"""Any Django view, answered now or later, by rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_core.message import RequestMessage
    from broker_django.models import DispatchRecord

__version__ = "0.1.0"


def dispatch(request_or_message: HttpRequest | RequestMessage, *, queue: str) -> DispatchRecord:
    """Have a request run later, on this queue, as its user: the dispatch, with its id.

    A request is taken as it is now, with its user and session; its body must not have been streamed away. Within a
    transaction the dispatch is published when that is committed; where it is rolled back, it has never been.

    Raises ConfigurationError for a queue that is not configured, BodyTooLargeError, MessageError for a request whose
    body is gone or that is itself being replayed, ReducedCapacityError where the queue is full, and UnavailableError
    where it cannot be recorded.
    """
    from broker_django.dispatching import dispatch as made  # noqa: PLC0415 - which needs the apps to be loaded

    return made(request_or_message, queue=queue)


def status_url(request: HttpRequest, dispatch: DispatchRecord) -> str:
    """The absolute URL where its owner follows the dispatch. Raises NoReverseMatch where they are not included."""
    from broker_django import tokens  # noqa: PLC0415 - which needs the settings

    return tokens.status_url(request, dispatch.pk, dispatch.accepted_at)
