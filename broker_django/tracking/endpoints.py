"""What all endpoints have in common. They work with any settings of the project.

The URLconf contains the synchronous view, which every WSGI server can run. Under ASGI the middleware calls the
endpoint's coroutine instead, if it has one.
"""

from __future__ import annotations

import functools
import inspect
import logging
import traceback
from typing import TYPE_CHECKING, Any

from django.core.exceptions import SuspiciousOperation
from django.db import Error as DatabaseFailure
from django.http import HttpResponseNotAllowed

from broker_core.errors import BadRequestError, BrokerError, UnavailableError
from broker_core.redaction import redacted
from broker_django.http import cache_headers, problem
from broker_django.ledger import ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    View = Callable[..., HttpResponseBase]
    AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]

logger = logging.getLogger("broker_django.tracking.endpoints")


class _EveryAlias(set[str]):
    """A set that contains every database alias, including those added later."""

    def __contains__(self, _alias: object) -> bool:
        return True


_coroutines: dict[int, AsyncView] = {}
"""Coroutines by `id(view)`. Not an attribute of the view, because a decorator would copy it and be bypassed."""


def coroutine_of(view: object) -> AsyncView | None:
    """Returns the coroutine to call instead of the view under ASGI. None if the view never waits, or is no endpoint."""
    return _coroutines.get(id(view))


def endpoint(methods: tuple[str, ...], view: View, coroutine: AsyncView | None = None) -> View:
    """Turn a view into an endpoint: it never raises, runs in no transaction, needs no login and is not cached.

    It ignores unknown keyword arguments, because a project may pass its own through `include()`.
    """

    @functools.wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = _method_not_allowed(request, methods) or view(request, *args, **_accepted(view, kwargs))
        except Exception as error:  # noqa: BLE001 - Django would log it with the token, and mail it
            response = problem_of(error)
        return _protect_url(request, response)

    if coroutine is not None:
        _coroutines[id(answer)] = _async_endpoint(methods, coroutine)
    answer.csrf_exempt = True  # type: ignore[attr-defined] # browsers never send a token by themselves, and preflight DELETE
    answer.login_required = False  # type: ignore[attr-defined] # for LoginRequiredMiddleware: endpoints check themselves
    answer._non_atomic_requests = _EveryAlias()  # type: ignore[attr-defined] # as set by `transaction.non_atomic_requests`
    return answer


def _async_endpoint(methods: tuple[str, ...], coroutine: AsyncView) -> AsyncView:
    async def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            arguments = _accepted(coroutine, kwargs)
            response = _method_not_allowed(request, methods) or await coroutine(request, *args, **arguments)
        except Exception as error:  # noqa: BLE001 - as above
            response = problem_of(error)
        return _protect_url(request, response)

    return answer


def _accepted(function: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name in _parameters(function)}


@functools.lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _method_not_allowed(request: HttpRequest, methods: tuple[str, ...]) -> HttpResponse | None:
    return None if not methods or request.method in methods else HttpResponseNotAllowed(methods)


def problem_of(error: Exception) -> HttpResponse:
    """Returns the problem document for an error. Unexpected errors are logged, without data of the client."""
    if isinstance(error, BrokerError):
        return problem(error)
    if isinstance(error, (DatabaseFailure, *ledger.failures)):
        logger.warning("The ledger cannot be read: %s", redacted(error))
        return problem(UnavailableError("the ledger cannot be read"))
    if isinstance(error, SuspiciousOperation):
        return problem(BadRequestError("the request is refused: see ALLOWED_HOSTS and the other limits of the site"))
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("An endpoint failed: %s\n%s", type(error).__name__, frames)
    return problem(BrokerError("the endpoint failed"))


def _protect_url(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Prevent Django and its middleware from logging, caching or mailing the URL, which is a secret."""
    response._has_been_logged = True  # type: ignore[attr-defined] # errors were logged above
    cache_headers.skip_django_cache(request)
    if not response.has_header("Cache-Control"):
        cache_headers.forbid_caching(response)
    if response.status_code == 404:
        request.META.pop("HTTP_REFERER", None)  # the middleware does this only for URLs with a token
    return response
