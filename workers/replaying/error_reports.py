"""Send one Sentry event for a failed dispatch, when it has failed for good.

The errors of an attempt are held back until its outcome is known. Then the last error is sent with its traceback, or
nothing if another attempt follows. Events that a view captures itself are sent as usual.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery import current_task
from celery.worker import state as worker_state

from broker_core.redaction import redacted
from broker_django.context import replay_of
from broker_django.ledger import ledger
from broker_django.messaging import tracing
from broker_django.messaging.celery_app import TASK
from broker_django.operations import sentry
from workers.replaying import sentry_requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from django.http import HttpRequest

    from broker_core.dispatches import SealedRequest

logger = logging.getLogger("workers.replaying.error_reports")

PART_OF_FAILURE = "request_broker_failure"
"""The attribute of log records that repeat the event of their dispatch."""

FROM_VIEW, FROM_BROKER = ({"type": name, "handled": False} for name in ("django", "request_broker"))
"""Sentry's mechanisms, which say where an error was caught."""

MOST_STOPPED = 100

BILLIARD = "multiprocessing"
"""The logger that reports lost processes."""


@dataclass(slots=True)
class _Attempt:
    """The errors of an attempt.

    held: errors that are held back, with their mechanisms. reported: errors that the view itself reported. last_error:
    the last error of the view or the middleware, even if a middleware turned it into a response. request: kept alive,
    because Sentry's integration has only a weak reference.
    """

    held: list[tuple[Any, Any]] = field(default_factory=list)
    reported: list[BaseException] = field(default_factory=list)
    last_error: BaseException | None = None
    request: HttpRequest | None = None
    route: str = ""
    concluded: bool = False

    def keep(self, error: BaseException) -> None:
        self.last_error = error

    def final_error(self) -> tuple[Any, Any] | None:
        """Returns the error to report, and its mechanism."""
        if self.held or self.last_error is None:
            return self.held[-1] if self.held else None
        return self.last_error, FROM_VIEW

    def has_reported(self, error: Any) -> bool:
        """Whether the view reported this error, which may be a `sys.exc_info` tuple."""
        exception = error[1] if isinstance(error, tuple) else error
        return any(each is exception for each in self.reported)


_attempt: ContextVar[_Attempt | None] = ContextVar("request_broker.attempt", default=None)
_holding_logs: ContextVar[bool] = ContextVar("request_broker.holding_logs", default=False)
_stopped: set[int] = set()
"""Processes stopped at a hard time limit whose end billiard has not yet logged."""


def log_extra(dispatch_id: object) -> dict[str, Any]:
    """Returns `extra` for a log record that repeats the event of the dispatch."""
    return {"dispatch_id": str(dispatch_id), PART_OF_FAILURE: True}


# An attempt, in the process that makes it


@contextlib.contextmanager
def attempt(dispatch_id: UUID, queue: str, number: int, fields: dict[str, str]) -> Iterator[None]:
    """Hold back the errors of this attempt until its outcome is known."""
    sdk = tracing.sentry_sdk()
    if sdk is None:
        yield
        return
    sentry.watch()
    with sdk.isolation_scope():
        if sdk.get_client().get_integration("celery") is None:
            sdk.continue_trace(fields)
        _tag(sdk, dispatch_id, queue, number)
        current = _Attempt()
        token = _attempt.set(current)
        try:
            yield
        finally:
            _attempt.reset(token)
            with _harmless():
                _name_transaction(sdk, current.route)


def add_request(request: HttpRequest) -> None:
    """Add this attempt's request to its events."""
    current, sdk = _attempt.get(), tracing.sentry_sdk()
    if current is None or sdk is None:
        return
    replay = replay_of(request)
    current.request = request
    if replay is not None:
        replay.on_error, current.route = current.keep, replay.route
    if current.route:
        sdk.get_current_scope().set_transaction_name(_name_of(current.route), source="route")
    scope = sdk.get_isolation_scope()
    scope.add_event_processor(sentry_requests.processor(sdk, request))
    scope.add_event_processor(lambda event, _hint: _by_route(event, current.route))


def keep_error(error: BaseException) -> None:
    """Keep the error that ended the attempt outside of Django's error handling."""
    current = _attempt.get()
    if current is not None:
        current.keep(error)


def report_failure(message: str) -> None:
    """Report that the dispatch failed for good: send the attempt's last error, or the message if it had no error."""
    current = _conclude()
    if current is None:
        return
    with _harmless():
        last = current.final_error()
        if last is None:
            _send_message(message, current.route)
        elif not current.has_reported(last[0]):
            _send_error(*last)


def report_success() -> None:
    """Send the errors of a successful attempt, as for any other request."""
    current = _conclude()
    if current is None:
        return
    with _harmless():
        for error, mechanism in current.held:
            if not current.has_reported(error):
                _send_error(error, mechanism)


def _conclude() -> _Attempt | None:
    """Returns this attempt, or None if its outcome was already reported."""
    current = _attempt.get()
    if current is None or current.concluded:
        return None
    current.concluded = True
    return current


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Log errors of Sentry's SDK and of the database: the outcome is already in the ledger."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the SDK may raise anything
        logger.warning("The failure of a dispatch is not reported to Sentry: %s", redacted(error))


def _send_error(error: Any, mechanism: Any) -> None:
    sdk = tracing.sentry_sdk()
    if sdk is not None:
        utils = importlib.import_module("sentry_sdk.utils")
        event, hint = utils.event_from_exception(error, client_options=sdk.get_client().options, mechanism=mechanism)
        sdk.capture_event(event, hint)


def _send_message(message: str, route: str) -> None:
    """Send an event without a traceback. Its fingerprint makes each route a separate issue."""
    sdk = tracing.sentry_sdk()
    if sdk is not None:
        event = {"message": message, "level": "error", "fingerprint": ["{{ default }}", route]}
        sdk.capture_event({**event, "transaction": _name_of(route)} if route else event)


def _tag(sdk: Any, dispatch_id: object, queue: str, number: int) -> None:
    scope = sdk.get_current_scope()
    scope.set_tag("dispatch.id", str(dispatch_id))
    scope.set_tag("dispatch.queue", queue)
    scope.set_tag("dispatch.attempt", str(number))


# Names of events


def _name_of(route: str) -> str:
    """Returns the name that Sentry's integration gives a route: `/orders/{pk}/`."""
    return re.sub(r"<(?:[^<>:]*:)?([^<>]*)>", r"{\1}", route)


def _by_route(event: dict[str, Any], route: str) -> dict[str, Any]:
    """Name the event after the route. Sentry's integration would group all time limits of a task as one issue."""
    name, source = event.get("transaction"), (event.get("transaction_info") or {}).get("source")
    if route and _is_of_url(name, source):
        event["transaction"], event["transaction_info"] = _name_of(route), {"source": "route"}
    if event.get("fingerprint", ())[-1:] == [TASK]:
        event["fingerprint"] = ["{{ default }}", route]
    return event


def _name_transaction(sdk: Any, route: str) -> None:
    """Name the worker's transaction after the route."""
    transaction = getattr(sdk.get_current_span(), "containing_transaction", None)
    if route and transaction is not None and _is_of_url(transaction.name, transaction.source):
        transaction.name, transaction.source = _name_of(route), "route"


def _is_of_url(name: Any, source: Any) -> bool:
    """Whether Sentry's integration named it after a URL. That may be another request's, if the view uses Django's test
    client. The project's own names are kept.
    """
    return str(name).startswith("/") and getattr(source, "value", source) in {"route", "url"}


# A dispatch that fails in another process


def report_failure_of(dispatch_id: UUID, error: BaseException | None = None) -> None:
    """Report a dispatch that failed for good outside of an attempt, because its worker was lost or stopped."""
    sdk = tracing.sentry_sdk()
    if sdk is None:
        return
    sentry.watch()
    with _harmless():
        request = ledger.sealed(dispatch_id)
        if request is not None:
            _report(sdk, request, error)


def _report(sdk: Any, request: SealedRequest, error: BaseException | None) -> None:
    dispatch = request.dispatch
    with sdk.isolation_scope() as scope:
        scope.clear_breadcrumbs()
        sdk.get_current_scope().span = None  # unrelated: from the main process's last action
        sdk.continue_trace(tracing.headers_of(dispatch))
        _tag(sdk, dispatch.id, dispatch.queue, dispatch.attempts)
        sdk.get_current_scope().set_transaction_name(_name_of(dispatch.route), source="route")
        scope.add_event_processor(sentry_requests.processor_for(sdk, request))
        token = _attempt.set(None)
        try:
            if error is None:
                _send_message(dispatch.error, dispatch.route)
            else:
                _send_error(error, FROM_BROKER)
        finally:
            _attempt.reset(token)


@contextlib.contextmanager
def logs_held_back() -> Iterator[None]:
    """Hold back Celery's log records about a lost process, because the event of its dispatch reports it."""
    token = _holding_logs.set(True)
    try:
        yield
    finally:
        _holding_logs.reset(token)


def expect_end(pid: Any) -> None:
    """Hold back billiard's log record about this process, which is stopped at its hard time limit.

    Only recent process ids are kept, because they are reused.
    """
    if tracing.sentry_sdk() is not None:
        if len(_stopped) >= MOST_STOPPED:
            _stopped.clear()
        _stopped.add(pid)


# What is held back


def _hold_back(event: dict[str, Any], hint: dict[str, Any]) -> bool:
    """Returns whether an event is held back, or not sent at all."""
    current, record, error = _attempt.get(), hint.get("log_record"), hint.get("exc_info")
    mechanism = _mechanism_of(event)
    if record is not None:
        held = _repeats_event(record)
    elif mechanism.get("type") == "celery":  # `ReplayTask` reports errors of the task itself
        return bool(current_task) and current_task.name == TASK
    else:
        held = mechanism.get("type") == "django" and current is not None and not current.concluded
    if error and current is not None:
        if held:
            current.held.append((error, mechanism if record is None else FROM_VIEW))
        else:
            current.reported.append(error[1])
    return held


def _mechanism_of(event: dict[str, Any]) -> dict[str, Any]:
    values = (event.get("exception") or {}).get("values") or [{}]
    return values[-1].get("mechanism") or {}


def _repeats_event(record: logging.LogRecord) -> bool:
    """Whether this log record repeats the event of the dispatch."""
    if getattr(record, PART_OF_FAILURE, False):
        return True
    package = record.name.partition(".")[0]
    if record.name == "django.request":
        return _attempt.get() is not None
    if record.name == BILLIARD:
        return _is_of_dispatch(record)
    return _holding_logs.get() and package in {"celery", "workers"}


def _is_of_dispatch(record: logging.LogRecord) -> bool:
    """Whether the lost process in this record ran a dispatch, or was stopped for one."""
    numbers = {each for each in record.args if isinstance(each, int)} if isinstance(record.args, tuple) else set()
    if numbers & _stopped:
        _stopped.difference_update(numbers)
        return True
    requests: Any = worker_state.reserved_requests
    return any(each.task.name == TASK and numbers & _processes_of(each) for each in list(requests))


def _processes_of(request: Any) -> set[int]:
    """Returns the processes that may run the task. The pool may notice the end of a process before it learns which task
    that began.
    """
    result = request._apply_result and request._apply_result()
    handed = (getattr(result, name, None) for name in ("_write_to", "_scheduled_for"))
    return {request.worker_pid, *(getattr(process, "pid", None) for process in handed)} - {None}


sentry.holding_back.append(_hold_back)
