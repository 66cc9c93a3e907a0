"""django-ninja: one view function serves all methods of a URL; each method is a separate operation."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from broker_django.annotations.annotating import closure_of, module_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = "ninja.operation"


def is_in_use() -> bool:
    return MODULE in sys.modules


def operation_places(view: Any, method: str) -> Iterator[Any]:
    """Yields the objects that may carry an annotation for this HTTP method of a django-ninja view: the operation's
    `run` (with `decorate_view`) and its function.
    """
    for operation in _operations(view, method):
        yield operation.run
        yield operation.view_func


def operation_functions(view: Any, method: str) -> list[Any]:
    """Returns the project's functions for this HTTP method of a django-ninja view: one, or none for any other view."""
    return [operation.view_func for operation in _operations(view, method)]


def _operations(view: Any, method: str) -> list[Any]:
    """Returns the operation of this method, if there is one."""
    found = getattr(_path_view(view), "operations", ())
    return [operation for operation in found if method in operation.methods][:1]


def _path_view(view: Any) -> Any:
    """Returns the object behind the view function, under any decorators, that chooses the operation by method."""
    view = inspect.unwrap(view, stop=_is_ninjas)
    if not _is_ninjas(view):
        return None
    return getattr(view, "__self__", None) or closure_of(view).get("self")  # earlier versions use a bound method


def _is_ninjas(view: Any) -> bool:
    return module_of(view) == MODULE
