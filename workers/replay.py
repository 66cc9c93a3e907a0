"""Running a message through Django, as the handler of a web server would."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from asgiref.sync import async_to_sync
from django.core import signals
from django.db import close_old_connections
from django.urls import set_script_prefix

from broker_core.errors import ResponseBrokenError, ResponseTooLargeError
from broker_django.conf import conf
from broker_django.context import WITNESS
from broker_django.handler import Handler, handler, thread_state
from broker_django.http import problem, to_request, to_response_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.errors import BrokerError
    from broker_core.message import Protocol, RequestMessage, ResponseMessage
    from broker_django.context import Replay

logger = logging.getLogger("workers.replay")


def _respond(request: HttpRequest, protocol: Protocol) -> HttpResponseBase:
    if protocol == "asgi":
        return async_to_sync(handler(is_async=True).get_response_async)(request)
    return handler(is_async=False).get_response(request)


def run(message: RequestMessage, replay: Replay) -> tuple[ResponseMessage, str]:
    """The view's response, and why the dispatch failed; empty where it succeeded."""
    with thread_state(), _connections_kept():
        request = to_request(message, replay)
        set_script_prefix(request.META.get("SCRIPT_NAME") or "/")
        if WITNESS.get() is None:
            signals.request_started.send(sender=Handler, environ=request.META)
        response = _respond(request, message.protocol)
        try:
            return to_response_message(response, conf.MAX_RESPONSE_SIZE), _failure(response, replay)
        except ResponseTooLargeError as error:
            return _unreadable(error), str(error)
        except Exception as error:
            logger.exception("The response of dispatch %s broke off", replay.id, extra={"dispatch_id": str(replay.id)})
            return _unreadable(ResponseBrokenError("the view's response broke off")), type(error).__name__
        finally:
            _let_go(response)


def _let_go(response: HttpResponseBase) -> None:
    """Close it, or leave it to a witness with nothing left to close: the server signals the end of the one request."""
    witness = WITNESS.get()
    if witness is None:
        response.close()
        return
    while response._resource_closers:  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):  # as Django does
            response._resource_closers.pop(0)()  # type: ignore[attr-defined]
    witness.append(response)


def _unreadable(error: BrokerError) -> ResponseMessage:
    return to_response_message(problem(error), conf.MAX_RESPONSE_SIZE)


def _failure(response: HttpResponseBase, replay: Replay) -> str:
    if response.status_code < 500:
        return replay.refusal
    return replay.exception or f"the view answered {response.status_code}"


@contextlib.contextmanager
def _connections_kept() -> Iterator[None]:
    """Let the request signals of a replay not close database connections: a worker goes on with them to store the
    outcome, and in eager mode they are those of the request that is being answered.

    Django closes them even within a transaction, which every test case holds open.
    """
    request_signals = (signals.request_started, signals.request_finished)
    disconnected = [signal for signal in request_signals if signal.disconnect(close_old_connections)]
    try:
        yield
    finally:
        for signal in disconnected:
            signal.connect(close_old_connections)
