"""HttpRequest <-> RequestMessage, and HttpResponse <-> ResponseMessage."""

from broker_django.http.protected_responses import SettledCookies, is_stored, put_back, settled
from broker_django.http.requests import PROCESS_ENVIRONMENT, declared_size, raw_body, to_message, to_request
from broker_django.http.responses import (
    OtherRedirect,
    problem,
    redirect_to,
    refill,
    to_response,
    to_response_message,
)

__all__ = [
    "PROCESS_ENVIRONMENT",
    "OtherRedirect",
    "SettledCookies",
    "declared_size",
    "is_stored",
    "problem",
    "put_back",
    "raw_body",
    "redirect_to",
    "refill",
    "settled",
    "to_message",
    "to_request",
    "to_response",
    "to_response_message",
]
