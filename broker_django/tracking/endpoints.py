"""What every endpoint has in common: it stands on its own, whatever the project's settings are.

A URLconf has the synchronous view, which any WSGI server can run, whatever its threads are made of. Under ASGI the
middleware answers with the coroutine, if there is one.
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
    """Of all databases, also of those that are named later."""

    def __contains__(self, _alias: object) -> bool:
        return True


_coroutines: dict[int, AsyncView] = {}
"""By the identity of the view. A decorator around an endpoint copies its attributes, and must not be passed by."""


def coroutine_of(view: object) -> AsyncView | None:
    """What answers under ASGI instead of the view; None for any other view, and for an endpoint that never waits."""
    return _coroutines.get(id(view))


def endpoint(methods: tuple[str, ...], view: View, coroutine: AsyncView | None = None) -> View:
    """The view as an endpoint: it never raises, is in no transaction, asks for no login, and is kept by no cache.

    It takes only the arguments that it knows: a project may pass more to all that it includes.
    """

    @functools.wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = _refused(request, methods) or view(request, *args, **_known(view, kwargs))
        except Exception as error:  # noqa: BLE001 - Django would log it with the token, and mail it
            response = failure(error)
        return _finished(request, response)

    if coroutine is not None:
        _coroutines[id(answer)] = _async_endpoint(methods, coroutine)
    answer.csrf_exempt = True  # type: ignore[attr-defined] # a token is no ambient credential, and browsers ask before DELETE
    answer.login_required = False  # type: ignore[attr-defined] # for LoginRequiredMiddleware: endpoints check themselves
    answer._non_atomic_requests = _EveryAlias()  # type: ignore[attr-defined] # as `transaction.non_atomic_requests` does
    return answer


def _async_endpoint(methods: tuple[str, ...], coroutine: AsyncView) -> AsyncView:
    async def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = _refused(request, methods) or await coroutine(request, *args, **_known(coroutine, kwargs))
        except Exception as error:  # noqa: BLE001 - as above
            response = failure(error)
        return _finished(request, response)

    return answer


def _known(function: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name in _parameters(function)}


@functools.lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _refused(request: HttpRequest, methods: tuple[str, ...]) -> HttpResponse | None:
    return None if not methods or request.method in methods else HttpResponseNotAllowed(methods)


def failure(error: Exception) -> HttpResponse:
    """The problem document for what went wrong. What is nobody's refusal is logged, without what the client sent."""
    if isinstance(error, BrokerError):
        return problem(error)
    if isinstance(error, (DatabaseFailure, *ledger.failures)):
        logger.warning("The ledger cannot be read: %s", redacted(error))
        return problem(UnavailableError("the ledger cannot be read"))
    if isinstance(error, SuspiciousOperation):
        return problem(BadRequestError("the request is refused: see ALLOWED_HOSTS and the other limits of the site"))
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("An endpoint failed: %s\n%s", type(error).__name__, where)
    return problem(BrokerError("the endpoint failed"))


def _finished(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """The URL is a secret: neither Django nor its middleware is to write it down, or to mail it."""
    response._has_been_logged = True  # type: ignore[attr-defined] # what went wrong was logged when it happened
    cache_headers.skip_django_cache(request)
    if not response.has_header("Cache-Control"):
        cache_headers.forbid_caching(response)
    if response.status_code == 404:
        request.META.pop("HTTP_REFERER", None)  # the middleware does so only if there is a token
    return response
