"""Django REST framework: the class of a view, and the function inside a handler."""

from __future__ import annotations

from typing import Any

from broker_django.annotations.annotating import closure_of, module_of


def view_class(view: Any) -> Any:
    """Returns the DRF view class of a view function, or None."""
    found = getattr(view, "cls", None)
    return found if found is not None and hasattr(found, "check_throttles") else None


def speaks_first(view: Any) -> bool:
    """Whether the DRF class of a view function is the first to handle the request.

    If a decorator of the project is outside, it may answer itself, so the broker must not ask the class before
    acceptance.
    """
    while module_of(view) == "django.views.decorators.csrf":
        view = view.__wrapped__
    return view_class(view) is not None and module_of(view) in _VIEW_MODULES


_VIEW_MODULES = frozenset({"django.views.generic.base", "rest_framework.viewsets"})


def function_of(handler: Any) -> Any:
    """Returns the function that `@api_view` has made this handler of, or None."""
    return closure_of(handler).get("func") if module_of(handler) == "rest_framework.decorators" else None
