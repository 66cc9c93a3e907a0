from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from celery.exceptions import SoftTimeLimitExceeded
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from broker_django.decorators import queue
from tests.processes import wait_until
from tests.site.models import Execution
from tests.site.views import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

made: list[object] = []
"""Counts database connections. A worker sends `connection_created` again for a session that it has reset."""


def note_connection(connection: BaseDatabaseWrapper, **_: object) -> None:
    if not any(each is connection.connection for each in made):
        made.append(connection.connection)


connection_created.connect(note_connection)


@csrf_exempt
def connections_made(_request: HttpRequest) -> HttpResponse:
    """Returns how often this process has connected to the database."""
    return HttpResponse(str(len(made)))


@csrf_exempt
def gate(request: HttpRequest, name: str) -> HttpResponse:
    """Answers once the gate, a file, is open."""
    wait_until((Path(os.environ["GATES"]) / name).exists)
    return note(request, name)


@csrf_exempt
def gate_and_count(request: HttpRequest, name: str) -> HttpResponse:
    """Writes into the session once the gate is open."""
    gate(request, name)
    return count(request)


@csrf_exempt
def gate_and_fail(request: HttpRequest, name: str) -> HttpResponse:
    """Raises once the gate is open."""
    gate(request, name)
    raise RuntimeError("as it should")


@csrf_exempt
def later(request: HttpRequest) -> HttpResponse:
    """Answers with a long Retry-After."""
    note(request, "later")
    return HttpResponse("later", status=503, headers={"Retry-After": "300"})


@csrf_exempt
def begun(request: HttpRequest, name: str) -> HttpResponse:
    """Records that it ran, and answers when the gate is open."""
    response = note(request, name)
    wait_until((Path(os.environ["GATES"]) / name).exists)
    return response


@csrf_exempt
def flaky(request: HttpRequest, failures: int) -> HttpResponse:
    """Fails this many times: it raises, or answers 503 with a Retry-After of one second."""
    note(request, "flaky")
    if request.broker.attempt > failures:
        return HttpResponse(f"attempt {request.broker.attempt}")
    if request.broker.attempt % 2:
        return HttpResponse("later", status=503, headers={"Retry-After": "1"})
    raise RuntimeError("flaky")


@csrf_exempt
def note(request: HttpRequest, name: str) -> HttpResponse:
    """Records that it ran."""
    Execution.objects.create(dispatch=str(request.broker.id or ""))
    return HttpResponse(name)


@csrf_exempt
@queue("brief")
def brief(request: HttpRequest, name: str) -> HttpResponse:
    """`begun`, with a time limit of one second, which it ignores."""
    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            return begun(request, name)


@csrf_exempt
@queue("brief")
def endless(request: HttpRequest) -> HttpResponse:
    """Ignores the soft time limit."""
    while True:
        with contextlib.suppress(Exception):
            while True:
                pass


ODD: dict[str, Callable[[HttpResponse], object]] = {
    "cookie-beyond-latin-1": lambda response: response.set_cookie("city", "Köln €"),
    "cookie-in-latin-1": lambda response: response.set_cookie("city", "Köln"),
    "path-in-latin-1": lambda response: response.set_cookie("seen", "1", path="/büro/"),
    "path-beyond-latin-1": lambda response: response.set_cookie("seen", "1", path="/€/"),
    "too-short": lambda response: response.__setitem__("Content-Length", "3"),
    "too-long": lambda response: response.__setitem__("Content-Length", "300"),
    "no-length": lambda response: response.__setitem__("Content-Length", "abc"),
    "no-content": lambda response: setattr(response, "status_code", 204),
    "reset-content": lambda response: setattr(response, "status_code", 205),
    "not-modified": lambda response: setattr(response, "status_code", 304),
    "unknown-status": lambda response: setattr(response, "status_code", 799),
}


@csrf_exempt
def odd(_request: HttpRequest, name: str) -> HttpResponse:
    """Returns responses that servers treat differently, or cannot send."""
    response = HttpResponse("a body")
    ODD[name](response)
    return response
