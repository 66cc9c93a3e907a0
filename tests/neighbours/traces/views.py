"""Views that fail in every way there is."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import Client

import broker_django
from broker_django import is_replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class OrderError(Exception):
    """Of the views."""


def fails_on_demand(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Middleware that fails for a header field, in a replay or at the endpoints."""

    def middleware(request: HttpRequest) -> Any:
        if "X-Fail" in request.headers and (is_replay(request) or request.path.startswith("/broker/")):
            raise OrderError("in a middleware")
        return get_response(request)

    return middleware


class AnswersErrors:
    """Middleware that turns an error into a response, so that Django logs nothing."""

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if "X-Answer-Errors" in request.headers:
            return JsonResponse({"error": str(exception)}, status=500)
        return None


def fine(request: HttpRequest, pk: int) -> JsonResponse:
    return JsonResponse({"pk": pk, "headers": dict(request.headers)})


def fails(request: HttpRequest, pk: int) -> HttpResponse:
    raise OrderError(f"order {pk}, attempt {request.broker.attempt}")


async def fails_async(request: HttpRequest, pk: int) -> HttpResponse:
    raise OrderError(f"order {pk}")


def asks(request: HttpRequest, pk: int) -> HttpResponse:
    """Calls another view, and then fails."""
    import sentry_sdk

    response = Client().get("/fine/7/?of=another", headers={"Cookie": "of=another"})
    if "name" in request.GET:
        sentry_sdk.set_transaction_name(request.GET["name"])
    sentry_sdk.capture_message("on purpose")
    raise OrderError(f"order {pk}, {response.status_code}")


def flaky(request: HttpRequest, pk: int) -> HttpResponse:
    if request.broker.attempt == 1:
        raise OrderError("in the first attempt")
    return HttpResponse("fine")


def answers(request: HttpRequest, status: int) -> HttpResponse:
    return HttpResponse("no", status=status)


def says(request: HttpRequest, pk: int) -> HttpResponse:
    import sentry_sdk

    sentry_sdk.capture_message("on purpose")
    logging.getLogger("shop").error("logged on purpose")
    try:
        raise OrderError("caught on purpose")
    except OrderError as error:
        sentry_sdk.capture_exception(error)
    raise OrderError("not on purpose")


def logs_and_fails(request: HttpRequest, pk: int) -> HttpResponse:
    try:
        raise OrderError(f"order {pk}")
    except OrderError:
        logging.getLogger("shop").exception("logged on purpose")
        raise


def exits(request: HttpRequest, pk: int) -> HttpResponse:
    sys.exit(1)


def unsendable(request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse("no", status=101)


def breaks_off(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    def body() -> Iterator[bytes]:
        yield b"begun"
        raise OrderError("in the middle")

    return StreamingHttpResponse(body())


def is_killed(request: HttpRequest, pk: int) -> HttpResponse:
    os.kill(os.getpid(), signal.SIGKILL)
    return HttpResponse()


def is_slow(request: HttpRequest, pk: int) -> HttpResponse:
    time.sleep(30)
    return HttpResponse()


def hangs(request: HttpRequest, pk: int) -> HttpResponse:
    while True:
        try:
            time.sleep(60)
        except Exception:
            continue


def dispatches(request: HttpRequest) -> JsonResponse:
    """Dispatches another request, and returns its id."""
    return JsonResponse({"id": str(broker_django.dispatch("/fine/7/", queue="bulk").id)})
