"""Django REST framework: the class behind a view, and the function that a handler was made of."""

from __future__ import annotations

from typing import Any

from broker_django.annotations.annotating import closure_of, module_of


def view_class(view: Any) -> Any:
    """The DRF view class behind a view function, None for any other view."""
    found = getattr(view, "cls", None)
    return found if found is not None and hasattr(found, "check_throttles") else None


def speaks_first(view: Any) -> bool:
    """Whether the DRF class behind a view function is the first to see the request.

    Under a decorator of the project's, which may answer otherwise, it must not be asked at the door.
    """
    while module_of(view) == "django.views.decorators.csrf":
        view = view.__wrapped__
    return view_class(view) is not None and module_of(view) in _VIEW_MODULES


_VIEW_MODULES = frozenset({"django.views.generic.base", "rest_framework.viewsets"})


def function_of(handler: Any) -> Any:
    """The function that `@api_view` made a handler of; None for any other handler."""
    return closure_of(handler).get("func") if module_of(handler) == "rest_framework.decorators" else None
