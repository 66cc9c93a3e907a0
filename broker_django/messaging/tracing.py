"""Carries the trace of a request along: W3C Trace Context, W3C Baggage and Sentry's header fields.

The ledger stores the fields, so that every message contains them, also one that the reaper publishes. Tracing packages
are used only if the project has imported them.
"""

from __future__ import annotations

import contextvars
import importlib
import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from django.http.request import HttpHeaders

from broker_core.redaction import redacted
from broker_django.http.log_redaction import without_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker_core.dispatches import Dispatch

T = TypeVar("T")

logger = logging.getLogger("broker_django.messaging.tracing")

_IDS = "((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}"
TRACEPARENT = re.compile(f"00-{_IDS}-[0-9a-f]{{2}}|(?!00|ff)[0-9a-f]{{2}}-{_IDS}-[0-9a-f]{{2}}(?:-[!-~]{{0,200}})?")
"""W3C Trace Context, section 3.2; later versions may append more (section 4.3)."""
SENTRY_TRACE = re.compile(f"{_IDS}(?:-[01])?")

FIELDS = ("traceparent", "tracestate", "sentry-trace", "baggage")
IN_ENVIRON = {name: HttpHeaders.to_wsgi_name(name) for name in FIELDS}
LONGEST = {"tracestate": 512, "baggage": 8_192}
"""The maximum length of a field, in characters: W3C Trace Context (3.3.1.5) and W3C Baggage (3.3.2) require so much."""
LONGEST_OTHER = 512
MOST_FIELDS = 12
"""The maximum number of trace fields; a propagator of the project may have its own fields."""

_NAME = re.compile(r"[!#-'*+.^_`|~0-9A-Za-z-]{1,64}")
_VALUE = re.compile(r"[ -~]+")


_NO_TRACE: dict[str, Any] = {"trace_id": "", "trace_fields": None}


def columns(environ: Mapping[str, str]) -> dict[str, Any]:
    """Returns the columns of the ledger for the trace of a request."""
    fields = fields_of(environ)
    return {"trace_id": trace_id(fields), "trace_fields": json.dumps(fields)} if fields else _NO_TRACE


def fields_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the header fields of the current trace, or else of the trace in the request."""
    received = {name: environ[key].strip() for name, key in IN_ENVIRON.items() if key in environ}
    return _with_sentry(_checked({**received, **(_of_opentelemetry() or {})}))


def trace_id(fields: Mapping[str, str]) -> str:
    """Returns the id of the trace, 32 hexadecimal digits, or an empty text."""
    w3c = TRACEPARENT.fullmatch(fields.get("traceparent", ""))
    found = w3c or SENTRY_TRACE.fullmatch(fields.get("sentry-trace", ""))
    return next(filter(None, found.groups())) if found else ""


def _checked(fields: Mapping[Any, Any]) -> dict[str, str]:
    """Returns the fields that are well-formed and not too long. `tracestate` is useless without `traceparent`."""
    kept = {name: value for name, value in [*fields.items()][:MOST_FIELDS] if _is_fit(name, value)}
    if "traceparent" not in kept:
        kept.pop("tracestate", None)
    return kept


def _is_fit(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    form = {"traceparent": TRACEPARENT, "sentry-trace": SENTRY_TRACE}.get(name, _VALUE)
    return bool(_NAME.fullmatch(name) and form.fullmatch(value)) and len(value) <= LONGEST.get(name, LONGEST_OTHER)


# The project's tracing packages


def _of_opentelemetry() -> dict[str, str] | None:
    """Returns what OpenTelemetry's propagators send, without the request's own fields; None outside a span."""
    if not _is_in_span():
        return None
    carrier: dict[str, str] = dict.fromkeys(FIELDS[:2], "")
    try:
        importlib.import_module("opentelemetry.propagate").inject(carrier)
    except Exception as error:  # noqa: BLE001 - a propagator must not cost the request
        logger.info("The trace of a request could not be read: %s", redacted(error))
        return None
    return carrier


def _is_in_span(of_trace: str = "") -> bool:
    """Whether OpenTelemetry is in use and a span is current in this context; if a trace is named, a span
    of that trace.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    current = trace.get_current_span().get_span_context()
    return current.is_valid and of_trace in {"", trace.format_trace_id(current.trace_id)}


def _with_sentry(fields: dict[str, str]) -> dict[str, str]:
    """Adds the fields of Sentry's SDK, if it is in use. Members of `baggage` from other vendors stay."""
    sentry = sentry_sdk()
    if sentry is None:
        return fields
    try:
        found = {"sentry-trace": sentry.get_traceparent() or "", "baggage": sentry.get_baggage() or ""}
    except Exception as error:  # noqa: BLE001 - tracing must not make the request fail
        logger.info("Sentry's trace of a request could not be read: %s", redacted(error))
        return fields
    members = [each for each in fields.get("baggage", "").split(",") if not each.strip().startswith("sentry-")]
    baggage = ",".join(filter(None, [found["baggage"], *members]))
    fit = baggage if len(baggage) <= LONGEST["baggage"] else found["baggage"]
    return _checked({**fields, **found, "baggage": fit})


def sentry_sdk() -> Any:
    """Returns Sentry's SDK, version 2 or later, if the project has imported and initialised it, or None."""
    sentry: Any = sys.modules.get("sentry_sdk")
    is_initialized = getattr(sentry, "is_initialized", None)
    return sentry if is_initialized is not None and is_initialized() else None


def hide_tokens() -> None:
    """Remove the tokens of dispatches from the attributes of OpenTelemetry's current span."""
    if _is_in_span():
        hide_tokens_in(sys.modules["opentelemetry.trace"].get_current_span())


def hide_tokens_in(span: Any, *_: Any) -> None:
    """Remove the tokens of dispatches from the attributes of a span that has not ended.

    It can be the `response_hook` of DjangoInstrumentor, which records the response after all middleware.
    """
    for name, value in dict(getattr(span, "attributes", None) or {}).items():
        cleaned = _without_tokens(value)
        if cleaned != value:
            span.set_attribute(name, cleaned)


def _without_tokens(value: Any) -> Any:
    """Header fields are sequences."""
    if isinstance(value, tuple | list):
        return type(value)(map(_without_tokens, value))
    return without_tokens(value) if isinstance(value, str) else value


# Publishing and replaying


def of_task(request: Any) -> dict[str, str]:
    """Returns the trace fields in the message of a task. They are checked: others may write to the message broker."""
    headers = getattr(request, "headers", None)
    return _checked(headers) if isinstance(headers, dict) else {}


def headers_of(dispatch: Dispatch) -> dict[str, str]:
    """Returns the header fields for every message of the dispatch."""
    if not dispatch.trace_fields:
        return {}
    fields: dict[str, str] = json.loads(dispatch.trace_fields)
    return fields


def add_to_message(headers: dict[str, Any], fields: Mapping[str, str]) -> None:
    """Add the fields beside Celery's own headers, and again in `headers`: tracing packages read one or the other."""
    headers.update({name: value for name, value in fields.items() if name not in headers})
    if fields:
        headers["headers"] = dict(fields)


def in_trace(fields: Mapping[str, str], function: Callable[[], T]) -> T:
    """Call the function in a context of its own, in which this trace is current.

    OpenTelemetry adds the current trace to a message, and leaves its span current if the message is refused.
    """
    if "opentelemetry.trace" not in sys.modules:
        return function()
    return contextvars.copy_context().run(_in_trace, fields, function)


def _in_trace(fields: Mapping[str, str], function: Callable[[], T]) -> T:
    if not _is_in_span(trace_id(fields)):
        _attach(fields)
    return function()


def enter(fields: Mapping[str, str]) -> None:
    """Make this trace current for the rest of the context, unless the instrumentation of Celery has done so."""
    if "opentelemetry.trace" in sys.modules and not _is_in_span():
        _attach(fields)


def _attach(fields: Mapping[str, str]) -> None:
    if not fields:
        return
    try:
        found = importlib.import_module("opentelemetry.propagate").extract(fields)
        importlib.import_module("opentelemetry.context").attach(found)
    except Exception as error:  # noqa: BLE001 - a propagator must not cost the dispatch
        logger.info("The trace of a dispatch could not be continued: %s", redacted(error))
