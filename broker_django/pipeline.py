"""The pipeline of a request: a router answers it, or it is accepted for later, or its view runs now."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async

from broker_core.dispatches import SealedRequest
from broker_core.errors import BrokerError
from broker_core.routing import Action
from broker_django.admission.acceptance import Accepted, Repeated, accept
from broker_django.admission.handover import publish_accepted
from broker_django.admission.steps import NotQueueableError
from broker_django.admission.submission import ClientSubmission
from broker_django.conf import conf
from broker_django.dispatcher import decide, route_of
from broker_django.http import cache_headers, content_codings, problem
from broker_django.identity import ownership, sessions
from broker_django.routing import choice, redirects
from broker_django.routing.proxies import aproxy, proxy
from broker_django.tracking.answers import accepted_response, available_response, repeated_response

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.dispatches import Dispatch
    from broker_django.context import View

logger = logging.getLogger("broker_django.pipeline")


def routed(request: HttpRequest) -> HttpResponseBase | None:
    """Returns the response of a router; None if the view answers."""
    try:
        route = route_of(request)
        if route is None or route.router.action is Action.QUEUE:
            return None
        return proxy(request, route) if route.router.action is Action.PROXY else redirects.redirect(request, route)
    except BrokerError as error:
        return problem(error)


async def arouted(request: HttpRequest) -> HttpResponseBase | None:
    """`routed` for coroutines."""
    try:
        find = sync_to_async(route_of) if choice.may_block(request) else None
        route = await find(request) if find else route_of(request)
        if route is None or route.router.action is Action.QUEUE:
            return None
        if route.router.action is Action.PROXY:
            return await aproxy(request, route)
        return await sync_to_async(redirects.redirect)(request, route)
    except BrokerError as error:
        return problem(error)


def submission_of(request: HttpRequest, view: View) -> ClientSubmission | None:
    """Returns the submission of a request to queue; None if the view runs now."""
    decision = decide(request, view.function)
    return None if decision is None or not decision.queued else ClientSubmission(request, view, decision)


def accept_and_publish(submission: ClientSubmission) -> Accepted | HttpResponseBase | None:
    """Returns the accepted dispatch, a response if the submission is refused, or None if the view must run now."""
    try:
        accepted = accept(submission)
    except NotQueueableError as reason:
        logger.log(reason.level, "%s runs now instead of in a queue: %s", submission.route, reason)
        return None
    except BrokerError as error:
        return problem(error)
    if isinstance(accepted, Accepted):
        publish_accepted(accepted)
    return accepted


def answer(request: HttpRequest, accepted: Accepted, dispatch: Dispatch | None) -> HttpResponseBase:
    """Returns the view's own response if it is stored by now, else the 202. `dispatch` is as it is after the wait."""
    cache_headers.skip_django_cache(request)
    if isinstance(accepted, Repeated):
        return answer_again(request, accepted, dispatch)
    response = available_response(dispatch, accepted.replayed)
    if response is None:
        sessions.detach(request)
        response = accepted_response(request, accepted)
        ownership.set_claim(request, response, accepted.dispatch, accepted.here)
        sessions.guard(request, response)
        return response
    sessions.adopt(request, response)
    return _with_cookies(accepted, response)


def answer_again(request: HttpRequest, repeated: Repeated, dispatch: Dispatch | None) -> HttpResponseBase:
    """Returns the response to a repetition. The session of a response that was stored earlier is not restored."""
    repeated.sealed = SealedRequest(dispatch or repeated.dispatch)
    sessions.detach(request)
    response = repeated_response(request, repeated)
    if not ownership.may_have_cookies(request, repeated.dispatch):
        ownership.without_cookies(response)
    try:
        content_codings.decode_for(request, response, conf.MAX_RESPONSE_SIZE)
    except BrokerError as error:
        response = problem(error)
    response = _with_cookies(repeated, response)
    sessions.guard(request, response)
    return response


def _with_cookies(accepted: Accepted, response: HttpResponseBase) -> HttpResponseBase:
    for name, morsel in accepted.carrier.cookies.items():
        response.cookies[name] = morsel
    return response
