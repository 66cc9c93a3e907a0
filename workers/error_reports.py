"""Sentry hears of a failed dispatch once, when it has failed for good.

The errors of an attempt are held back until its outcome is known. Then the last is sent, with its own traceback; or
none, if there is to be another attempt. What a view captures on its own is sent as ever.
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

from broker_core.message import RequestMessage
from broker_core.redaction import redacted
from broker_django import ledger, sentry, tracing
from broker_django.celery_app import TASK
from broker_django.context import Replay, replay_of
from broker_django.delivery import open_request
from broker_django.http import to_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from django.http import HttpRequest

    from broker_django.models import DispatchRecord

logger = logging.getLogger("workers.error_reports")

PART_OF_FAILURE = "request_broker_failure"
"""The attribute of a log record that says what the event of the dispatch says, too."""

OF_VIEW, OF_BROKER = ({"type": name, "handled": False} for name in ("django", "request_broker"))
"""Mechanisms: how an error was met."""

MOST_STOPPED = 100

OF_BILLIARD = "multiprocessing"
"""The logger that tells of a process that was lost."""


@dataclass(slots=True)
class _Attempt:
    """`errors` are those held back, each with the mechanism by which Sentry came by it; `sent` are those that the view
    itself has reported, and `raised` is what it raised, though a middleware may have made a response of it. `request`
    lives as long: Sentry's integration has a weak reference to it.
    """

    errors: list[tuple[Any, Any]] = field(default_factory=list)
    sent: list[BaseException] = field(default_factory=list)
    raised: BaseException | None = None
    request: HttpRequest | None = None
    route: str = ""
    over: bool = False

    def note(self, error: BaseException) -> None:
        self.raised = error

    def last(self) -> tuple[Any, Any] | None:
        if self.errors or self.raised is None:
            return self.errors[-1] if self.errors else None
        return self.raised, OF_VIEW

    def has_sent(self, error: Any) -> bool:
        """Whether it was reported before; `error` is one, or what `sys.exc_info` returns."""
        raised = error[1] if isinstance(error, tuple) else error
        return any(each is raised for each in self.sent)


_attempt: ContextVar[_Attempt | None] = ContextVar("request_broker.attempt", default=None)
_told_elsewhere: ContextVar[bool] = ContextVar("request_broker.told_elsewhere", default=False)
_stopped: set[int] = set()
"""Processes that were stopped at a hard time limit, and of whose end billiard has yet to tell."""


def log_extra(dispatch_id: object) -> dict[str, Any]:
    """`extra` of a log record that says what the event of the dispatch says, too."""
    return {"dispatch_id": str(dispatch_id), PART_OF_FAILURE: True}


# An attempt, in the process that makes it


@contextlib.contextmanager
def attempt(dispatch_id: UUID, queue: str, number: int, fields: dict[str, str]) -> Iterator[None]:
    """Hold back the errors of this attempt, until `failed` or `ended`."""
    sdk = tracing.sentry_sdk()
    if sdk is None:
        yield
        return
    sentry.watch()
    with sdk.isolation_scope():
        if sdk.get_client().get_integration("celery") is None:
            sdk.continue_trace(fields)
        _describe(sdk, dispatch_id, queue, number)
        token = _attempt.set(_Attempt())
        try:
            yield
        finally:
            _attempt.reset(token)


def came(request: HttpRequest) -> None:
    """The attempt is about to run this request."""
    current, sdk = _attempt.get(), tracing.sentry_sdk()
    if current is not None and sdk is not None:
        scope, replay = sdk.get_current_scope(), replay_of(request)
        current.request = request
        if replay is not None:
            replay.note_error, current.route = current.note, replay.route
        if current.route:
            scope.set_transaction_name(_named(current.route), source="route")
        scope.add_event_processor(lambda event, _hint: _with_request(_of_route(event, current.route), request))


def raised(error: BaseException) -> None:
    """The attempt broke off with this, of which Django says nothing."""
    current = _attempt.get()
    if current is not None:
        current.note(error)


def failed(error: str) -> None:
    """The dispatch has failed for good in this attempt: send the last error, or say why there is none."""
    current = _end()
    if current is None:
        return
    with _harmless():
        last = current.last()
        if last is None:
            _send(error, current.route)
        elif not current.has_sent(last[0]):
            _send_error(*last)


def ended() -> None:
    """The attempt has succeeded. What was raised all the same is reported as for any other request."""
    current = _end()
    if current is None:
        return
    with _harmless():
        for error, mechanism in current.errors:
            if not current.has_sent(error):
                _send_error(error, mechanism)


def _end() -> _Attempt | None:
    """This attempt, unless it has ended before."""
    current = _attempt.get()
    if current is None or current.over:
        return None
    current.over = True
    return current


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Whatever goes wrong here, the ledger has the outcome."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of Sentry's SDK, or of the database
        logger.warning("Sentry is not told that a dispatch failed: %s", redacted(error))


def _send_error(error: Any, mechanism: Any) -> None:
    sdk = tracing.sentry_sdk()
    if sdk is not None:
        utils = importlib.import_module("sentry_sdk.utils")
        event, hint = utils.event_from_exception(error, client_options=sdk.get_client().options, mechanism=mechanism)
        sdk.capture_event(event, hint)


def _send(message: str, route: str) -> None:
    """What has no traceback would be one issue for all routes."""
    sdk = tracing.sentry_sdk()
    if sdk is not None:
        event = {"message": message, "level": "error", "fingerprint": ["{{ default }}", route]}
        sdk.capture_event({**event, "transaction": _named(route)} if route else event)


def _describe(sdk: Any, dispatch_id: object, queue: str, number: int) -> None:
    scope = sdk.get_current_scope()
    scope.set_tag("dispatch.id", str(dispatch_id))
    scope.set_tag("dispatch.queue", queue)
    scope.set_tag("dispatch.attempt", str(number))


def _named(route: str) -> str:
    """As Sentry's integration names it: `/orders/{pk}/`."""
    return re.sub(r"<(?:[^<>:]*:)?([^<>]*)>", r"{\1}", route)


def _of_route(event: dict[str, Any], route: str) -> dict[str, Any]:
    """Sentry's integration would make all time limits of a task one issue: here, of all routes."""
    if event.get("fingerprint", ())[-1:] == [TASK]:
        event["fingerprint"] = ["{{ default }}", route]
    return event


def _with_request(event: dict[str, Any], request: HttpRequest) -> dict[str, Any]:
    """Sentry's integration adds more, but nothing of a request that came by ASGI."""
    with contextlib.suppress(Exception):  # DisallowedHost: the view was not reached, either
        told = event.setdefault("request", {})
        told.setdefault("url", request.build_absolute_uri(request.path))
        told.setdefault("method", request.method)
    return event


# A dispatch that fails elsewhere


def failed_elsewhere(dispatch_id: UUID, error: BaseException | None = None) -> None:
    """The dispatch has failed for good, and no attempt in this context can tell: its worker was lost, or stopped."""
    sdk = tracing.sentry_sdk()
    if sdk is None:
        return
    sentry.watch()
    with _harmless():
        record = ledger.rows().defer("kept_response").filter(pk=dispatch_id).first()
        if record is not None:
            _report(sdk, record, error)


def _report(sdk: Any, record: DispatchRecord, error: BaseException | None) -> None:
    with sdk.isolation_scope() as scope:
        scope.clear_breadcrumbs()
        sdk.get_current_scope().span = None  # of whatever the main process did last
        sdk.continue_trace(tracing.headers_of(record))
        _describe(sdk, record.pk, record.queue, record.attempts)
        sdk.get_current_scope().set_transaction_name(_named(record.route), source="route")
        request = _request_of(record)
        if request is None:
            where = {"method": record.method, "url": f"//{record.host}{record.path}" if record.host else record.path}
            scope.add_event_processor(lambda event, _hint: {**event, "request": where})
        else:
            scope.add_event_processor(lambda event, _hint: _with_request(event, request))
        token = _attempt.set(None)
        try:
            if error is None:
                _send(record.error, record.route)
            else:
                _send_error(error, OF_BROKER)
        finally:
            _attempt.reset(token)


def _request_of(record: DispatchRecord) -> HttpRequest | None:
    """None if it is in a file, or cannot be opened here."""
    with contextlib.suppress(Exception):
        sealed = open_request(bytes(record.sealed), str(record.pk), record.queue)
        replay = Replay(record.pk, record.queue, record.attempts, None)
        return to_request(RequestMessage.decode(sealed), replay)
    return None


@contextlib.contextmanager
def told_elsewhere() -> Iterator[None]:
    """What Celery logs of a lost process is reported as the failure of its dispatch, if it is one."""
    token = _told_elsewhere.set(True)
    try:
        yield
    finally:
        _told_elsewhere.reset(token)


def process_stopped(pid: Any) -> None:
    """A process is stopped at its hard time limit. Its number may be another's one day, so only the last ones count."""
    if tracing.sentry_sdk() is not None:
        if len(_stopped) >= MOST_STOPPED:
            _stopped.clear()
        _stopped.add(pid)


# What is held back


def _holds(event: dict[str, Any], hint: dict[str, Any]) -> bool:
    """Whether an event is held back, or not sent at all."""
    current, record, error = _attempt.get(), hint.get("log_record"), hint.get("exc_info")
    mechanism = _mechanism(event)
    if record is not None:
        held = _is_told_anyway(record)
    elif mechanism.get("type") == "celery":  # `ReplayTask` reports what the task itself raised
        return bool(current_task) and current_task.name == TASK
    else:
        held = mechanism.get("type") == "django" and current is not None and not current.over
    if error and current is not None:
        if held:
            current.errors.append((error, mechanism if record is None else OF_VIEW))
        else:
            current.sent.append(error[1])
    return held


def _mechanism(event: dict[str, Any]) -> dict[str, Any]:
    """How Sentry came by the error."""
    values = (event.get("exception") or {}).get("values") or [{}]
    return values[-1].get("mechanism") or {}


def _is_told_anyway(record: logging.LogRecord) -> bool:
    """Whether the event of the dispatch says what this record says."""
    if getattr(record, PART_OF_FAILURE, False):
        return True
    package = record.name.partition(".")[0]
    if record.name == "django.request":
        return _attempt.get() is not None
    if record.name == OF_BILLIARD:
        return _is_of_replay(record)
    return _told_elsewhere.get() and package in {"celery", "workers"}


def _is_of_replay(record: logging.LogRecord) -> bool:
    """Whether the process that has ended ran a dispatch, or was stopped for it."""
    told = {each for each in record.args if isinstance(each, int)} if isinstance(record.args, tuple) else set()
    if told & _stopped:
        _stopped.difference_update(told)
        return True
    requests: Any = worker_state.reserved_requests
    return any(each.task.name == TASK and told & _processes(each) for each in list(requests))


def _processes(request: Any) -> set[int]:
    """Those that may run the task. The pool may learn that a process has ended before it reads what that has begun."""
    result = request._apply_result and request._apply_result()
    handed = (getattr(result, name, None) for name in ("_write_to", "_scheduled_for"))
    return {request.worker_pid, *(getattr(process, "pid", None) for process in handed)} - {None}


sentry.holding_back.append(_holds)
