"""Run a message through Django, as a web server's handler would."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from django.core import signals
from django.db import close_old_connections
from django.urls import set_script_prefix

from broker_core.dispatches import NOT_REACHED, Outcome
from broker_core.errors import ResponseBrokenError, ResponseTooLargeError, ViewNotReachedError
from broker_core.retries import is_failure, parse_retry_after
from broker_django.conf import conf
from broker_django.context import EAGER_RESPONSES
from broker_django.http import problem, to_request, to_response_message
from broker_django.http.handler import Handler, handler, thread_state
from broker_django.identity.accepted_users import expect, remove_ended_session_cookie
from broker_django.messaging.celery_app import ends_worker
from workers.replaying import error_reports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.errors import BrokerError
    from broker_core.message import Protocol, RequestMessage, ResponseMessage
    from broker_django.context import Replay

logger = logging.getLogger("workers.replaying.replay")

CACHEABLE, FROM_A_CACHE = frozenset({"GET", "HEAD"}), frozenset({200, 304})
"""Methods and statuses that a page cache answers."""


def _respond(request: HttpRequest, protocol: Protocol, replay: Replay) -> HttpResponseBase:
    if protocol == "asgi":
        return async_to_sync(_respond_async)(request, replay)
    return handler(is_async=False).get_response(request)


async def _respond_async(request: HttpRequest, replay: Replay) -> HttpResponseBase:
    if not replay.eager:  # only then is the loop this replay's own
        asyncio.get_running_loop().set_exception_handler(_cancel_stuck_tasks)
    return await handler(is_async=True).get_response_async(request)


def _cancel_stuck_tasks(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Older Python releases never report a StopIteration raised by a function in a thread (cpython#112182)."""
    loop.default_exception_handler(context)
    error = context.get("exception")
    if isinstance(error, TypeError) and StopIteration.__name__ in str(error):
        for task in asyncio.all_tasks(loop):
            task.cancel()


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a replay: the response, and the error; empty if it succeeded.

    retriable: whether another attempt may end differently, after at least `retry_after` seconds. unknown_here: whether
    a worker with other code or settings may reach the view.
    """

    response: ResponseMessage
    error: str = ""
    retriable: bool = False
    retry_after: float | None = None
    unknown_here: bool = False

    @property
    def outcome(self) -> Outcome:
        response = self.response
        return Outcome(
            response.status, response.content_type, len(response.body), self.error, self.retriable, self.retry_after
        )


def run(message: RequestMessage, replay: Replay) -> Answer:
    """Run the request through Django. Returns an answer even if its code raises."""
    try:
        with thread_state(), _connections_kept():
            return _run(message, replay)
    except BaseException as error:
        if _ends_process(error, replay):
            raise
        return _answer_to_error(error, replay)


def _ends_process(error: BaseException, replay: Replay) -> bool:
    return ends_worker(error) or (replay.eager and not isinstance(error, Exception))


def _run(message: RequestMessage, replay: Replay) -> Answer:
    request = to_request(message, replay)
    error_reports.add_request(request)
    expect(request, replay)
    set_script_prefix(request.META.get("SCRIPT_NAME") or "/")
    if EAGER_RESPONSES.get() is None:
        signals.request_started.send(sender=Handler, environ=request.META)
    response = _respond(request, message.protocol, replay)
    remove_ended_session_cookie(request, response)
    try:
        made = to_response_message(response, conf.MAX_RESPONSE_SIZE, method=message.method, protocol=message.protocol)
        if response.has_header("Content-Encoding"):
            made = replace(made, accept_encoding=message.environ.get("HTTP_ACCEPT_ENCODING", ""))
        return _answer(made, request, replay)
    except (ResponseTooLargeError, ResponseBrokenError) as error:
        text, extra = "The response of dispatch %s cannot be sent: %s", error_reports.log_extra(replay.id)
        logger.error(text, replay.id, error, extra=extra)
        text = str(error) if replay.reached else f"{NOT_REACHED}: {error}"
        return Answer(_problem_message(error), text, retriable=not replay.reached)
    finally:
        _finish(response, replay)


def _answer_to_error(error: BaseException, replay: Replay) -> Answer:
    """Returns the answer for an error outside of Django's error handling.

    Before the view, that is an error of the middleware or the URLs, which may be correct in another worker.
    """
    error_reports.keep_error(error)
    extra = error_reports.log_extra(replay.id)
    logger.error("The replay of dispatch %s was interrupted by an error", replay.id, exc_info=error, extra=extra)
    if not replay.reached:
        text = f"{NOT_REACHED}: {type(error).__name__}"
        return Answer(_problem_message(ViewNotReachedError(NOT_REACHED)), text, unknown_here=True)
    broken = ResponseBrokenError("the view's response was interrupted")
    return Answer(_problem_message(broken), type(error).__name__, retriable=True)


def _finish(response: HttpResponseBase, replay: Replay) -> None:
    """Release the response. Errors here do not change the outcome, because the view has answered."""
    try:
        _release(response)
    except BaseException as error:
        if _ends_process(error, replay):
            raise
        extra = {"dispatch_id": str(replay.id)}
        logger.error("The response of dispatch %s could not be closed", replay.id, exc_info=error, extra=extra)


def _release(response: HttpResponseBase) -> None:
    """Close it, or let a witness close it: then the server signals the end of the only request."""
    witness = EAGER_RESPONSES.get()
    if witness is None:
        response.close()
        return
    while response._resource_closers:  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):  # as Django does
            response._resource_closers.pop(0)()  # type: ignore[attr-defined]
    witness.append(response)


def unanswered(error: BrokerError, *, unknown_here: bool) -> Answer:
    """Returns the answer if the request cannot be read: by this worker, or by any."""
    text = f"{NOT_REACHED}: {error}" if unknown_here else str(error)
    return Answer(_problem_message(error), text, unknown_here=unknown_here)


def _problem_message(error: BrokerError) -> ResponseMessage:
    return to_response_message(problem(error), conf.MAX_RESPONSE_SIZE)


def _answer(response: ResponseMessage, request: HttpRequest, replay: Replay) -> Answer:
    if replay.refusal:
        return Answer(response, replay.refusal)
    if not replay.reached:
        return _not_reached(response, request, replay)
    if not is_failure(response.status):
        return Answer(response)
    error = replay.exception or f"the view answered {response.status}"
    return Answer(response, error, retriable=True, retry_after=_retry_after(response))


def _not_reached(response: ResponseMessage, request: HttpRequest, replay: Replay) -> Answer:
    """Returns the answer if the URL leads elsewhere in this process, or a middleware answered.

    A middleware's redirect or refusal, for logins, TLS or maintenance, did not apply when the request was accepted. A
    response that may come from the project's page cache counts as the view's.
    """
    if replay.entered and (replay.elsewhere or request.resolver_match is None):
        here = f"the URL leads to {replay.elsewhere} here" if replay.elsewhere else "the URL leads nowhere here"
        error = f"{NOT_REACHED}: {here}, and led to {replay.wanted} when it was accepted"
        return Answer(_problem_message(ViewNotReachedError(NOT_REACHED)), error, unknown_here=True)
    if request.method in CACHEABLE and response.status in FROM_A_CACHE:
        return Answer(response)
    by = replay.exception or f"a middleware answered {response.status}"
    return Answer(response, f"{NOT_REACHED}: {by}", retriable=True, retry_after=_retry_after(response))


def _retry_after(response: ResponseMessage) -> float | None:
    field = next((value for name, value in response.headers if name.lower() == "retry-after"), "")
    return parse_retry_after(field)


@contextlib.contextmanager
def _connections_kept() -> Iterator[None]:
    """Prevent a replay's request signals from closing database connections. A worker needs them to store the outcome,
    and in eager mode the outer request uses them.

    Django closes them even within a transaction, which every test case holds open.
    """
    request_signals = (signals.request_started, signals.request_finished)
    disconnected = [signal for signal in request_signals if signal.disconnect(close_old_connections)]
    try:
        yield
    finally:
        for signal in disconnected:
            signal.connect(close_old_connections)
