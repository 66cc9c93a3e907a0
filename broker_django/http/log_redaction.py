"""Removes tokens from what Django and web servers log: a reader of the log must not become the owner of a dispatch.

The endpoints do not log tokens. But a development server logs each request line, and Django logs 404s below a status
URL, unknown hosts, and errors of the project's middleware.
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
"""A token with its signature. The signature is the secret; the dispatch id before it may be logged."""
LONG_SEGMENT = re.compile(r"(/tasks/)[^/?\s\"']{70,}")
"""Any other long segment: a client may percent-encode each character of a token."""

OF_DJANGO = ("django.request", "django.server", "django.channels.server", "django.security.csrf")
OF_SERVERS = ("uvicorn.access", "gunicorn.access", "hypercorn.access")


def without_tokens(text: str) -> str:
    return LONG_SEGMENT.sub(r"\1**", TOKEN.sub(r"\1**", text))


class TokenFilter(logging.Filter):
    """Replaces tokens in everything that handlers write: message, traceback and error reports."""

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
    elif record.args and "tasks/" in (message := record.getMessage()):
        record.msg, record.args = without_tokens(message), ()


def _clean(value: Any) -> Any:
    """Returns the value itself if its text and its repr contain no token; otherwise its text without tokens."""
    if value is None or isinstance(value, int | float):
        return value
    try:
        text, shown = str(value), repr(value)
    except Exception:  # noqa: BLE001 - the handler that formats the record reports the error
        return value
    cleaned = without_tokens(text)
    return value if cleaned == text and without_tokens(shown) == shown else cleaned


def _clean_error(record: logging.LogRecord, error: BaseException, *, secret: bool) -> None:
    """Keep the traceback as text only.

    HTML reports show the variables of its frames, which may contain a `secret` path.
    """
    text = record.exc_text or logging.Formatter().formatException((type(error), error, error.__traceback__))
    cleaned = without_tokens(text)
    if secret or cleaned != text:
        kind = type(type(error).__name__, (Exception,), {"__module__": type(error).__module__})
        record.exc_text, record.exc_info = cleaned, (kind, kind(cleaned), None)


def has_token(request: Any) -> bool:
    """Whether the path or a header field contains a token, such as the Referer of a request from a stored page."""
    texts = [getattr(request, "path", ""), *getattr(request, "META", {}).values()]
    return any(without_tokens(each) != each for each in texts if isinstance(each, str))


def _clean_request(request: Any) -> Any:
    """Returns a copy for error reports, or None if the request cannot be copied."""
    try:
        cleaned = copy.copy(request)
        cleaned.path, cleaned.path_info = _clean(request.path), _clean(request.path_info)
        cleaned._stream = vars(request).get("_stream")  # Django's copy omits it; a report may read the form
        cleaned.META = _clean_mapping(request.META)
        if hasattr(request, "environ"):
            cleaned.environ = cleaned.META
        for name in ("GET", "COOKIES"):  # the report parses them again
            vars(cleaned).pop(name, None)
    except Exception:  # noqa: BLE001 - a request class of some middleware: better no report than a token
        return None
    return cleaned


def _clean_mapping(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: without_tokens(value) if isinstance(value, str) else value for key, value in mapping.items()}


def _security_loggers(kind: type[Exception] = SuspiciousOperation) -> Iterator[str]:
    """Django has one logger for each of these error classes."""
    yield f"django.security.{kind.__name__}"
    for narrower in kind.__subclasses__():
        yield from _security_loggers(narrower)


class RecordFactory:
    """Also filters the loggers of error classes that did not exist at start-up, from modules that are loaded later."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, name: str | None, *args: Any, **kwargs: Any) -> logging.LogRecord:
        if name is not None and name.startswith("django.security."):
            _filter(name)
        return self._make(name, *args, **kwargs)


def install_token_filter() -> None:
    """Filter the loggers, because the project's handlers are unknown. Idempotent."""
    for name in {*OF_DJANGO, *OF_SERVERS, *_security_loggers()}:
        _filter(name)
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, RecordFactory):
        logging.setLogRecordFactory(RecordFactory(factory))


def _filter(name: str) -> None:
    found = logging.getLogger(name)
    if not any(isinstance(each, TokenFilter) for each in found.filters):
        found.addFilter(TokenFilter())
