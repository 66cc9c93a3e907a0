"""Names views, so that a worker with other code notices that a URL leads to another view there.

The name identifies what runs: the handler of the HTTP method, the action of a view set, the operation of django-ninja,
the arguments of `as_view`, the model of an admin page. Views with the same path, such as two views made by one factory,
get a digest of what they were made with.
"""

from __future__ import annotations

import functools
from typing import Any

from broker_django.annotations import drf, ninja
from broker_django.annotations.stable_values import (
    class_of,
    describe,
    digest,
    distinguishing_values,
    innermost,
    path_of,
)

LONGEST = 150
"""The number of characters of `as_view` arguments in a name. Longer ones are replaced by a digest."""

_OF_VIEW_SETS = frozenset({"basename", "description", "detail", "name", "suffix"})
"""Arguments that REST framework uses for its own pages. The action is in the name; its docstring may be edited."""


def view_name(view: Any, method: str) -> str:
    """Returns the name of what answers this HTTP method, such as `shop.views.Checkout.post`."""
    try:
        return _cached_name(view, method)
    except TypeError:  # a callable object may be unhashable
        return _name_of(view, method)


def _name_of(view: Any, method: str) -> str:
    operation = next(iter(ninja.operation_functions(view, method)), None) if ninja.is_in_use() else None
    if operation is not None:
        return _function_name(operation, method)
    view_class = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if view_class is not None:
        return path_of(view_class) + _handler(view, view_class, method.lower()) + _arguments(view)
    return _function_name(view, method)


_cached_name = functools.lru_cache(maxsize=1024)(_name_of)


def _function_name(view: Any, method: str) -> str:
    """Returns the name of a function, method or callable object, under any decorators."""
    inner = innermost(view)
    if isinstance(inner, functools.partial):
        return view_name(inner.func, method) + digest([describe((inner.args, inner.keywords))])
    owner = getattr(view, "model_admin", None) or getattr(inner, "__self__", None)
    of = f" of {path_of(class_of(owner))}{_model_suffix(owner)}" if owner is not None else ""
    return path_of(inner) + of + digest(distinguishing_values(inner))


def _handler(view: Any, view_class: Any, method: str) -> str:
    """Returns the method of the class that answers; an empty text if it has no such method (a 405)."""
    actions = getattr(view, "actions", None)
    if actions is not None:
        name = actions.get(method) or (actions.get("get") if method == "head" else None)
    else:
        name = "get" if method == "head" and not hasattr(view_class, "head") else method
    handler = getattr(view_class, name, None) if name else None
    if handler is None:
        return f".{name}" if name and actions is not None else ""
    return f".{name}{digest(distinguishing_values(drf.function_of(handler) or handler))}"


def _arguments(view: Any) -> str:
    """Returns the arguments of `as_view`: without them, all TemplateViews would have the same name.

    Permissions, parsers and renderers are left out: they may change without making it another view.
    """
    arguments = getattr(view, "view_initkwargs", None) or getattr(view, "initkwargs", None) or {}
    of_view_sets = _OF_VIEW_SETS if getattr(view, "actions", None) is not None else frozenset()
    names = [name for name in sorted(arguments) if name not in of_view_sets and not name.endswith("_classes")]
    texts = [f"{name}={describe(arguments[name])}" for name in names]
    text = ", ".join(texts)
    return f"({text if len(text) <= LONGEST else text[:LONGEST] + digest(texts)})" if texts else ""


def _model_suffix(owner: Any) -> str:
    """The admin uses the same views for all models."""
    options: Any = getattr(owner, "opts", None)
    return f" for {options.label_lower}" if hasattr(options, "label_lower") else ""
