"""What a view is called, so that a worker with other code can tell that a URL leads elsewhere there.

The name has what is run: the handler of the HTTP method, the action of a view set, the operation of django-ninja, what
`as_view` was given, the model of an admin page. Views that have the same path apart from that, such as two that one
factory made, are told apart by a digest of what they were made with.
"""

from __future__ import annotations

import functools
from typing import Any

from broker_django.annotations import drf, ninja
from broker_django.annotations.stable_values import class_of, digest, innermost, made_of, path_of, said

LONGEST = 150
"""How many characters of what `as_view` was given a name has; of more it has a digest."""

_OF_VIEW_SETS = frozenset({"basename", "description", "detail", "name", "suffix"})
"""What REST framework tells its own pages. The action is in the name, and its docstring may be edited."""


def view_name(view: Any, method: str) -> str:
    """The name of what answers this HTTP method, such as `shop.views.Checkout.post`."""
    try:
        return _known(view, method)
    except TypeError:  # a callable object may have no hash
        return _name_of(view, method)


def _name_of(view: Any, method: str) -> str:
    operation = next(iter(ninja.operation_functions(view, method)), None) if ninja.is_in_use() else None
    if operation is not None:
        return _of_function(operation, method)
    view_class = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if view_class is not None:
        return path_of(view_class) + _handler(view, view_class, method.lower()) + _given(view)
    return _of_function(view, method)


_known = functools.lru_cache(maxsize=1024)(_name_of)


def _of_function(view: Any, method: str) -> str:
    """The name of a function, a method or a callable object, under any decorators."""
    inner = innermost(view)
    if isinstance(inner, functools.partial):
        return view_name(inner.func, method) + digest([said((inner.args, inner.keywords))])
    owner = getattr(view, "model_admin", None) or getattr(inner, "__self__", None)
    of = f" of {path_of(class_of(owner))}{_of_model(owner)}" if owner is not None else ""
    return path_of(inner) + of + digest(made_of(inner))


def _handler(view: Any, view_class: Any, method: str) -> str:
    """The method of the class that answers; nothing if it has none, which is a 405."""
    actions = getattr(view, "actions", None)
    if actions is not None:
        name = actions.get(method) or (actions.get("get") if method == "head" else None)
    else:
        name = "get" if method == "head" and not hasattr(view_class, "head") else method
    handler = getattr(view_class, name, None) if name else None
    if handler is None:
        return f".{name}" if name and actions is not None else ""
    return f".{name}{digest(made_of(drf.function_of(handler) or handler))}"


def _given(view: Any) -> str:
    """What a generic view was configured with: without it, all pages of templates would be one view.

    Who may use it, and in which formats, may change and leave it the same view.
    """
    given = getattr(view, "view_initkwargs", None) or getattr(view, "initkwargs", None) or {}
    of_view_sets = _OF_VIEW_SETS if getattr(view, "actions", None) is not None else frozenset()
    names = [name for name in sorted(given) if name not in of_view_sets and not name.endswith("_classes")]
    texts = [f"{name}={said(given[name])}" for name in names]
    text = ", ".join(texts)
    return f"({text if len(text) <= LONGEST else text[:LONGEST] + digest(texts)})" if texts else ""


def _of_model(owner: Any) -> str:
    """The admin has the same views for each model."""
    options: Any = getattr(owner, "opts", None)
    return f" for {options.label_lower}" if hasattr(options, "label_lower") else ""
