"""Decorators for views: functions, async functions, class-based views and their methods, DRF and django-ninja views.

They return the same view with an annotation, and do not change it for other URLs. They add no cost to a call of the
view, and work above and below other decorators.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.utils.decorators import classonlymethod

from broker_core.policies import Annotation, Mode
from broker_django.annotations.annotating import annotated
from broker_django.annotations.view_annotations import ATTRIBUTE, KEY_ATTRIBUTE
from broker_django.context import RequestContext

if TYPE_CHECKING:
    from collections.abc import Callable

View = TypeVar("View", bound="Callable[..., Any]")


def queue(name: str, *, wait: float | None = None) -> Callable[[View], View]:
    """Run the view later, on this queue. The client waits up to `wait` seconds for the response, then gets a 202."""
    return _annotate(Annotation(_queue_name(name, "queue"), Mode.QUEUE, wait))


def priority(name: str) -> Callable[[View], View]:
    """Put the view into this queue. It runs now, unless the client sends `Prefer: respond-async` (RFC 7240)."""
    return _annotate(Annotation(_queue_name(name, "priority"), Mode.PREFER))


def run_now(view: View) -> View:
    """Never queue this view, whatever the rules say."""
    return _annotate(Annotation(None, Mode.SYNC))(view)


def require_idempotency_key(view: View) -> View:
    """Refuse, with a 400, requests that would be queued with an unsafe method and without an `Idempotency-Key`."""
    return cast("View", annotated(view, KEY_ATTRIBUTE, value=True))


def enable_routing(view: View) -> View:
    """Let routers redirect or proxy this view's requests, in a project that does not install the middleware."""
    if isinstance(view, type):
        return cast("View", _routed_class(view))
    from broker_django import pipeline  # noqa: PLC0415 - needs the models, whose module may use decorators
    from broker_django.routing import visitors  # noqa: PLC0415 - the same

    @wraps(view)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        request = _request_in(args)
        response = pipeline.routed(request) or view(*args, **kwargs)
        return visitors.with_visitor_cookie(request, response)

    @wraps(view)
    async def awrapped(*args: Any, **kwargs: Any) -> Any:
        request = _request_in(args)
        response = await pipeline.arouted(request) or await view(*args, **kwargs)
        return visitors.with_visitor_cookie(request, response)

    return cast("View", awrapped if iscoroutinefunction(view) else wrapped)


def _routed_class(view: Any) -> Any:
    """Returns the class with an `as_view` that makes routed views."""
    make = view.as_view.__func__
    return annotated(view, "as_view", classonlymethod(lambda cls, **given: enable_routing(make(cls, **given))))


def _request_in(args: tuple[Any, ...]) -> HttpRequest:
    """Returns the request among the arguments of a view. A method has its instance first; REST framework wraps the
    request.
    """
    arguments = (getattr(each, "_request", each) for each in args)
    request = next(each for each in arguments if isinstance(each, HttpRequest))
    if not hasattr(request, "broker"):
        request.broker = RequestContext()  # type: ignore[attr-defined]
    return request


def _queue_name(name: object, decorator: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f'@{decorator} takes the name of a queue: @{decorator}("payment")')
    return name


def _annotate(annotation: Annotation) -> Callable[[View], View]:
    def mark(view: View) -> View:
        return cast("View", annotated(view, ATTRIBUTE, annotation))

    return mark
