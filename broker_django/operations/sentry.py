"""Remove tokens from Sentry's events, and let workers hold some events back, if the project uses Sentry's SDK."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from django.core.signals import request_started

from broker_django.http.log_redaction import without_tokens
from broker_django.messaging.tracing import sentry_sdk

if TYPE_CHECKING:
    from collections.abc import Callable

Event = dict[str, Any]

holding_back: list[Callable[[Event, dict[str, Any]], bool]] = []
"""Functions that take an event and its hint. If one returns True, the event is not sent."""

_FIRST_REQUEST = "request_broker.sentry"

LAST_STEPS = ("before_send", "before_send_transaction")


def watch(**_: Any) -> None:
    """Process each event of this process before it is sent, if the project has loaded Sentry's SDK."""
    request_started.disconnect(dispatch_uid=_FIRST_REQUEST)
    if "sentry_sdk" in sys.modules:
        processors = importlib.import_module("sentry_sdk.scope").global_event_processors
        if _process not in processors:
            processors.insert(0, _process)  # before the SDK records the last error it has seen


def watch_from_first_request() -> None:
    """Try again at the first request: a project may initialise the SDK after its apps."""
    watch()
    request_started.connect(watch, dispatch_uid=_FIRST_REQUEST)


def _process(event: Event, hint: dict[str, Any]) -> Event | None:
    _clean_at_the_end()
    return None if any(holds(event, hint or {}) for holds in holding_back) else event


def _clean_at_the_end() -> None:
    """Clean events in the last step before sending, because integrations add to them after us."""
    sentry = sentry_sdk()
    options = sentry.get_client().options if sentry is not None else {}
    for name in LAST_STEPS:
        if not isinstance(options.get(name), _Cleaning):
            options[name] = _Cleaning(options.get(name))


class _Cleaning:
    """Removes tokens from an event, then calls the project's own function."""

    def __init__(self, following: Callable[[Event, Any], Event | None] | None) -> None:
        self._following = following

    def __call__(self, event: Event, hint: Any) -> Event | None:
        cleaned: Event = _cleaned(event)
        return cleaned if self._following is None else self._following(cleaned, hint)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return without_tokens(value)
    if isinstance(value, dict):
        return {key: _cleaned(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(each) for each in value]
    return value
