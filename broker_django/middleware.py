"""The middleware. It runs the pipeline before the view is resolved, when it is resolved, and after the response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async

from broker_django import classification
from broker_django.admission import replays
from broker_django.admission.acceptance import Accepted
from broker_django.admission.uploads import keep_body, may_keep_body
from broker_django.context import View, replay_of
from broker_django.http import is_stored, protected, restore
from broker_django.http.log_redaction import has_token
from broker_django.messaging import tracing
from broker_django.pipeline import accept_and_publish, answer, arouted, routed, submission_of
from broker_django.routing import visitors
from broker_django.tracking.answers import (
    await_until_done,
    wait_until_done,
)
from broker_django.tracking.endpoints import coroutine_of
from broker_django.tracking.holding import places
from broker_django.tracking.waiting import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase


class RequestBrokerMiddleware:
    """Classifies each request, and answers it now or accepts it for later. It must be the last in `MIDDLEWARE`."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        self.process_view = self._aprocess_view if self.is_async else self._process_view
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self.__acall__(request)
        places.register_thread()
        tracing.hide_tokens()
        try:
            response = replays.enter(request) or routed(request) or keep_body(request) or self.get_response(request)
        except BaseException as error:
            replays.raise_if_view_exited(request, error)
            raise
        return leave(request, response)

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        tracing.hide_tokens()
        try:
            response = await self._without_view(request) or await self.get_response(request)
        except BaseException as error:
            replays.raise_if_view_exited(request, error)
            raise
        return leave(request, response)

    async def _without_view(self, request: HttpRequest) -> HttpResponseBase | None:
        """Returns the response if there is one before the view is resolved."""
        enter = sync_to_async(replays.enter) if replay_of(request) else None
        response = (await enter(request) if enter else replays.enter(request)) or await arouted(request)
        if response is None and may_keep_body(request):
            response = await sync_to_async(keep_body)(request)
        return response

    def _process_view(self, request: HttpRequest, function: Any, args: Any, kwargs: Any) -> HttpResponseBase | None:
        view, replay = View(function, args, kwargs), replay_of(request)
        if replay is not None:
            return replays.reach(request, view, replay)
        submission = submission_of(request, view)
        if submission is None:
            return None
        accepted = accept_and_publish(submission)
        if not isinstance(accepted, Accepted):
            return accepted
        dispatch = None
        if accepted.wait:
            dispatch = wait_until_done(request, accepted.dispatch, accepted.wait, ledger_only=True)
        return answer(request, accepted, dispatch)

    async def _aprocess_view(
        self, request: HttpRequest, function: Any, args: Any, kwargs: Any
    ) -> HttpResponseBase | None:
        endpoint = coroutine_of(function)
        if endpoint is not None:
            return await endpoint(request, *args, **kwargs)
        view, replay = View(function, args, kwargs), replay_of(request)
        if replay is not None:
            return await sync_to_async(replays.reach)(request, view, replay)
        ask = sync_to_async(submission_of) if classification.may_block(request, function) else None
        submission = await ask(request, view) if ask else submission_of(request, view)
        if submission is None:
            return None
        accepted = await sync_to_async(accept_and_publish)(submission)
        if not isinstance(accepted, Accepted):
            return accepted
        dispatch = None
        if accepted.wait:
            dispatch = await await_until_done(request, accepted.dispatch, accepted.wait, quick=QUICK)
        return await sync_to_async(answer)(request, accepted, dispatch)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        replay = replay_of(request)
        if replay is not None:
            replay.exception = type(exception).__name__
            if replay.on_error is not None:
                replay.on_error(exception)


class StoredResponseMiddleware:
    """Restores stored responses that other middleware has changed. Optional; must be the first in `MIDDLEWARE`."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self.__acall__(request)
        kept = _keep(request)
        return _restored(kept, self.get_response(request))

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        kept = _keep(request)
        return _restored(kept, await self.get_response(request))


KEPT = "_request_broker_kept"
"""The attribute of a request that contains the stored response for `StoredResponseMiddleware`."""


def _keep(request: HttpRequest) -> list[HttpResponseBase]:
    kept: list[HttpResponseBase] = []
    setattr(request, KEPT, kept)
    return kept


def _restored(kept: list[HttpResponseBase], response: HttpResponseBase) -> HttpResponseBase:
    """Returns the response to send. Another status is kept: middleware refuses, redirects or answers 304."""
    stored = kept.pop() if kept else response
    if stored is response or stored.status_code != response.status_code:
        return response
    return restore(stored, response)


def leave(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Returns the response for outer middleware. A stored response cannot be changed by it."""
    response = protected(visitors.with_visitor_cookie(request, response))
    if response.status_code == 404 and "HTTP_REFERER" in request.META and has_token(request):
        del request.META["HTTP_REFERER"]  # BrokenLinkEmailsMiddleware mails it
    if is_stored(response):
        request.broker.stored = True  # type: ignore[attr-defined]
        getattr(request, KEPT, []).append(response)
    return response
