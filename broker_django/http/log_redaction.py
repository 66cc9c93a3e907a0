"""Keeps tokens out of what Django and web servers log: whoever reads a log is not to be the owner of its dispatches.

The endpoints log nothing of the kind themselves. But a development server logs every request line, and Django a 404
below a status URL, a host that is not served, and what a middleware of the project raises.
"""

from __future__ import annotations

import copy
import logging
import re
from typing import TYPE_CHECKING, Any

from django.core.exceptions import SuspiciousOperation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TOKEN = re.compile(r"([0-9a-f]{32}-[0-9A-Za-z]{1,12}(?:\.|%2[eE]))[0-9A-Za-z_%-]{20,}")
"""A token up to its signature, which alone makes it one; the id before it may be logged."""
LONG_SEGMENT = re.compile(r"(/tasks/)[^/?\s\"']{70,}")
"""The same in other words: a client may percent-encode any character."""

OF_DJANGO = ("django.request", "django.server", "django.channels.server", "django.security.csrf")
OF_SERVERS = ("uvicorn.access", "gunicorn.access", "hypercorn.access")


def without_tokens(text: str) -> str:
    return LONG_SEGMENT.sub(r"\1**", TOKEN.sub(r"\1**", text))


class TokenFilter(logging.Filter):
    """Replaces tokens in all that handlers write of a record: message, traceback and reports."""

    def filter(self, record: logging.LogRecord) -> bool:
        _clean_message(record)
        request = getattr(record, "request", None)
        secret = has_token(request)
        if secret:
            record.request = _clean_request(request)
        record.exc_text, record.stack_info = _clean(record.exc_text), _clean(record.stack_info)
        if record.exc_info and record.exc_info[1] is not None:
            _clean_error(record, record.exc_info[1], secret=secret)
        return True


def _clean_message(record: logging.LogRecord) -> None:
    record.msg = _clean(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(map(_clean, record.args))
    elif record.args and "tasks/" in (said := record.getMessage()):
        record.msg, record.args = without_tokens(said), ()


def _clean(value: Any) -> Any:
    """The value itself if neither its text nor its representation has a token, else its text without."""
    if value is None or isinstance(value, int | float):
        return value
    try:
        said, shown = str(value), repr(value)
    except Exception:  # noqa: BLE001 - whoever writes the record will stumble over it, and report it
        return value
    cleaned = without_tokens(said)
    return value if cleaned == said and without_tokens(shown) == shown else cleaned


def _clean_error(record: logging.LogRecord, error: BaseException, *, secret: bool) -> None:
    """Keep the traceback as text. Its frames have variables, which reports in HTML show: a `secret` path too."""
    text = record.exc_text or logging.Formatter().formatException((type(error), error, error.__traceback__))
    cleaned = without_tokens(text)
    if secret or cleaned != text:
        kind = type(type(error).__name__, (Exception,), {"__module__": type(error).__module__})
        record.exc_text, record.exc_info = cleaned, (kind, kind(cleaned), None)


def has_token(request: Any) -> bool:
    """Whether its path or one of its header fields has a token, such as the Referer of what a stored page links to."""
    told = [getattr(request, "path", ""), *getattr(request, "META", {}).values()]
    return any(without_tokens(each) != each for each in told if isinstance(each, str))


def _clean_request(request: Any) -> Any:
    """A copy for reports. What cannot be copied is left out."""
    try:
        cleaned = copy.copy(request)
        cleaned.path, cleaned.path_info = _clean(request.path), _clean(request.path_info)
        cleaned._stream = vars(request).get("_stream")  # which Django's own copy lacks: a report may ask for the form
        cleaned.META = _clean_mapping(request.META)
        if hasattr(request, "environ"):
            cleaned.environ = cleaned.META
        for name in ("GET", "COOKIES"):  # a report has them read again
            vars(cleaned).pop(name, None)
    except Exception:  # noqa: BLE001 - a request of some middleware's own: rather no report than a token
        return None
    return cleaned


def _clean_mapping(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: without_tokens(value) if isinstance(value, str) else value for key, value in mapping.items()}


def _security_loggers(kind: type[Exception] = SuspiciousOperation) -> Iterator[str]:
    """Django has a logger for each of these errors."""
    yield f"django.security.{kind.__name__}"
    for narrower in kind.__subclasses__():
        yield from _security_loggers(narrower)


class RecordFactory:
    """Filters the loggers of those errors that were not known at first: a project's own, in modules loaded later."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, name: str | None, *args: Any, **kwargs: Any) -> logging.LogRecord:
        if name is not None and name.startswith("django.security."):
            _filter(name)
        return self._make(name, *args, **kwargs)


def keep_tokens_out() -> None:
    """Filter the loggers themselves: the project's handlers may be anywhere. Doing it again changes nothing."""
    for name in {*OF_DJANGO, *OF_SERVERS, *_security_loggers()}:
        _filter(name)
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, RecordFactory):
        logging.setLogRecordFactory(RecordFactory(factory))


def _filter(name: str) -> None:
    found = logging.getLogger(name)
    if not any(isinstance(each, TokenFilter) for each in found.filters):
        found.addFilter(TokenFilter())
