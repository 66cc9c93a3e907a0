"""What a view is called, so that a worker with other code can tell that a URL leads elsewhere there.

The name has what is run: the handler of the HTTP method, the action of a view set, the operation of django-ninja, the
text that `as_view` was given, the model of an admin page.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from broker_django import ninja


def view_name(view: Any, method: str) -> str:
    """The name of what answers this HTTP method, such as `shop.views.Checkout.post`."""
    operation = next(iter(ninja.operation_functions(view, method)), None) if ninja.is_in_use() else None
    if operation is not None:
        return _path(operation)
    view_class = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if view_class is not None:
        return _path(view_class) + _handler(view, view_class, method.lower()) + _given(view)
    owner = getattr(view, "model_admin", None) or getattr(view, "__self__", None)
    return _path(view) + (f" of {_path(type(owner))}{_of_model(owner)}" if owner is not None else "")


def _path(named: Any) -> str:
    while isinstance(named, functools.partial):
        named = named.func
    named = named if hasattr(named, "__qualname__") else type(named)
    qualified: str = named.__qualname__
    last = qualified.rpartition(".")[2]
    name = getattr(named, "__name__", last)  # `api_view` of REST framework gives its classes that of their functions
    return f"{_module(named.__module__)}.{qualified if name == last else name}"


def _module(name: str) -> str:
    """The name under which others import a module that this process was started with."""
    main = sys.modules.get("__main__")
    if name != "__main__" or main is None:
        return name
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return spec.name if spec else Path(file).stem if file else name


def _handler(view: Any, view_class: Any, method: str) -> str:
    """The method of the class that answers; nothing if it has none, which is a 405."""
    actions = getattr(view, "actions", None)
    if actions is not None:
        name = actions.get(method) or (actions.get("get") if method == "head" else None)
        return f".{name}" if name else ""
    if method == "head" and not hasattr(view_class, "head"):
        method = "get"
    return f".{method}" if hasattr(view_class, method) else ""


def _given(view: Any) -> str:
    """The texts that a generic view was configured with: without them, all pages of templates would be one view."""
    given = getattr(view, "view_initkwargs", None) or getattr(view, "initkwargs", None) or {}
    texts = [f"{name}={value!r}" for name, value in sorted(given.items()) if isinstance(value, str)]
    return f"({', '.join(texts)})" if texts else ""


def _of_model(owner: Any) -> str:
    """The admin has the same views for each model."""
    options: Any = getattr(owner, "opts", None)
    return f" for {options.label_lower}" if hasattr(options, "label_lower") else ""
