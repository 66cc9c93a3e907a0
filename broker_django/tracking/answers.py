"""Responses about a dispatch: the status document, the 202, and the stored response."""

from __future__ import annotations

import contextlib
import logging
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.http import HttpResponse, JsonResponse
from django.utils import timezone

from broker_core.dispatches import ELSEWHERE, NOT_REACHED
from broker_core.errors import BrokerError, ResponseGoneError
from broker_django.classification import preferences_of
from broker_django.conf import conf
from broker_django.http import problem, refill, to_response
from broker_django.http.cache_headers import forbid_caching
from broker_django.ledger import ledger, responses, tokens
from broker_django.models.moments import as_text
from broker_django.tracking import holding, waiting
from broker_django.tracking.watcher import UnwatchedError

if TYPE_CHECKING:
    from datetime import datetime

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.dispatches import Dispatch
    from broker_django.admission.acceptance import Accepted, Repeated


logger = logging.getLogger("broker_django.tracking.answers")


def status_document(dispatch: Dispatch, here: str) -> dict[str, Any]:
    """Returns the status document. `here` is its own URL. Times are RFC 3339 in UTC, or None if not yet reached."""
    return {
        "id": str(dispatch.id),
        "state": str(dispatch.state),
        "done": dispatch.state.done,
        "queue": dispatch.queue,
        "route": dispatch.route,
        "method": dispatch.method,
        "path": dispatch.path,
        "attempts": dispatch.attempts,
        "accepted_at": _time(dispatch.accepted_at),
        "started_at": _time(dispatch.started_at),
        "finished_at": _time(dispatch.finished_at),
        "expires_at": _time(dispatch.expires_at),
        "response": dispatch.summary(),
        "error": _public_error(dispatch.error),
        "links": {"self": here, "response": f"{here}response/", "events": f"{here}events/", "cancel": here},
    }


def _public_error(error: str) -> str | None:
    """Returns the error as clients may see it. Only operators may see which views a URL resolves to."""
    return (NOT_REACHED if error.startswith(ELSEWHERE) else error) or None


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else as_text(moment)


def status_response(request: HttpRequest, dispatch: Dispatch, status: int = 200) -> HttpResponse:
    """Returns the status document, not cacheable, with `Retry-After` while the dispatch is not done."""
    return _status_response(dispatch, tokens.status_url(request, dispatch.id, dispatch.accepted_at), status)


def _status_response(dispatch: Dispatch, here: str, status: int) -> HttpResponse:
    response = JsonResponse(status_document(dispatch, here), status=status)
    forbid_caching(response)
    if not dispatch.state.done:
        response["Retry-After"] = _poll_interval()
    return response


def _poll_interval() -> str:
    return str(math.ceil(conf.POLL_INTERVAL))


def accepted_response(request: HttpRequest, accepted: Accepted) -> HttpResponse:
    """Returns the 202 (RFC 9110, section 15.3.3), whose `Location` is the status URL."""
    response = _status_response(accepted.dispatch, accepted.here, 202)
    response["Location"] = accepted.here
    response.cookies.update(accepted.carrier.cookies)
    return _with_preference_applied(request, response)


def repeated_response(request: HttpRequest, repeated: Repeated) -> HttpResponseBase:
    """Returns the response to a repeated request: the stored response, the 202 of the first request, or a refusal."""
    error = repeated.refusal
    if error is None:
        return available_response(repeated.dispatch, None) or accepted_response(request, repeated)
    response = problem(error)
    if repeated.same_request:
        response["Location"], response["Retry-After"] = repeated.here, _poll_interval()
    return response


def _with_preference_applied(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    applied = preferences_of(request).applied(request.broker.held)  # type: ignore[attr-defined]
    if applied:
        response["Preference-Applied"] = applied
    return response


def stored_response(dispatch: Dispatch, original: HttpResponseBase | None = None) -> HttpResponseBase:
    """Returns the view's response, verbatim, in its original object if that is given.

    Raises ResponseGoneError if no response was stored or it was dropped, and UnavailableError.
    """
    if dispatch.response_status is None:
        raise ResponseGoneError(f"the dispatch is {dispatch.state} and has no response")
    message = None if _is_dropped(dispatch) else responses.fetch(dispatch)
    if message is None:
        raise ResponseGoneError("the response is no longer stored")
    return to_response(message) if original is None else refill(original, message)


def _is_dropped(dispatch: Dispatch) -> bool:
    policy = conf.queues.get(dispatch.queue)
    if policy is None or dispatch.finished_at is None:
        return False
    return dispatch.finished_at + timedelta(seconds=policy.results_ttl) <= timezone.now()


def available_response(dispatch: Dispatch | None, original: HttpResponseBase | None) -> HttpResponseBase | None:
    """Returns the view's own response, or None if it is not stored yet or cannot be read."""
    if dispatch is None or dispatch.response_status is None:
        return None
    try:
        response = stored_response(dispatch, original)
    except BrokerError as error:
        logger.warning("Dispatch %s is answered with its status: %s", dispatch.id, error)
        return None
    response._has_been_logged = True  # type: ignore[attr-defined] # the worker has logged it
    return response


def wait_until_done(request: HttpRequest, dispatch: Dispatch, seconds: float, *, ledger_only: bool = False) -> Dispatch:
    """Wait up to `seconds`, or as long as this client may be held. Returns the dispatch as it is then."""
    done = None
    with holding.hold(holding.guest(request, dispatch), seconds) as allowed, contextlib.suppress(UnwatchedError):
        done = waiting.wait(dispatch.id, allowed, _is_done, ledger_only=ledger_only) if allowed else None
        _record_held(request, allowed)
    return done or ledger.find(dispatch.id) or dispatch


async def await_until_done(request: HttpRequest, dispatch: Dispatch, seconds: float, *, quick: float = 0.0) -> Dispatch:
    """The same for coroutines. The request keeps its thread for `quick` seconds."""
    done = None
    with holding.hold(holding.guest(request, dispatch), seconds) as allowed, contextlib.suppress(UnwatchedError):
        done = await waiting.async_wait(dispatch.id, allowed, _is_done, quick=quick) if allowed else None
        _record_held(request, allowed)
    await waiting.restore_connections()
    return done or await sync_to_async(ledger.find)(dispatch.id) or dispatch


def _record_held(request: HttpRequest, seconds: float) -> None:
    context = getattr(request, "broker", None)
    if context is not None:
        context.held = seconds


def _is_done(dispatch: Dispatch) -> bool:
    return dispatch.state.done
