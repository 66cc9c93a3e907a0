"""Reads what the broker's decorators have set on a view."""

from __future__ import annotations

from functools import partial
from typing import Any

from broker_core.policies import Annotation
from broker_django.annotations import drf, ninja

ATTRIBUTE = "request_broker"
KEY_ATTRIBUTE = "request_broker_requires_key"


def annotation_of(view: Any, method: str) -> Annotation | None:
    """Returns the annotation for this HTTP method: that of its handler, else of the view, else of the view's class."""
    for candidate in _candidates(view, method):
        found = getattr(candidate, ATTRIBUTE, None)
        if isinstance(found, Annotation):
            return found
    return None


def requires_idempotency_key(view: Any, method: str) -> bool:
    """Whether a decorator of the handler for this HTTP method, of the view or of its class requires a key."""
    return any(getattr(candidate, KEY_ATTRIBUTE, False) for candidate in _candidates(view, method))


def _candidates(view: Any, method: str) -> tuple[Any, ...]:
    """Returns the objects that may carry an annotation for this HTTP method, the most specific first."""
    view_class = _class_of(view)
    if view_class is not None:
        handler = _handler(view, view_class, method.lower())
        return handler, drf.function_of(handler), view, view_class
    if isinstance(view, partial):
        return view, *_candidates(view.func, method)
    return (*ninja.operation_places(view, method), view) if ninja.is_in_use() else (view,)


def _class_of(view: Any) -> Any:
    return getattr(view, "view_class", None) or getattr(view, "cls", None)


def _handler(view: Any, view_class: Any, name: str) -> Any:
    handler = getattr(view_class, (getattr(view, "actions", None) or {}).get(name, name), None)
    if handler is None and name == "head":
        return _handler(view, view_class, "get")  # as Django and DRF answer HEAD
    return handler
