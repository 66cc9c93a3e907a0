"""Conversion between HttpRequest and RequestMessage, and between HttpResponse and ResponseMessage."""

from broker_django.http.protected_responses import ProtectedCookies, is_stored, protected, restore
from broker_django.http.requests import declared_size, raw_body, to_message, to_request
from broker_django.http.responses import (
    problem,
    redirect_to,
    refill,
    to_response,
    to_response_message,
)

__all__ = [
    "ProtectedCookies",
    "declared_size",
    "is_stored",
    "problem",
    "protected",
    "raw_body",
    "redirect_to",
    "refill",
    "restore",
    "to_message",
    "to_request",
    "to_response",
    "to_response_message",
]
