"""Django REST framework at the door: authentication, permissions and throttles speak before anything is accepted."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.urls import resolve
from django.utils.module_loading import import_string

from broker_django.context import replay_of, user_key
from broker_django.notes import closure_of, module_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_django.models import DispatchRecord


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


@contextlib.contextmanager
def _user_kept(request: HttpRequest) -> Iterator[None]:
    """DRF sets the user whom it finds on Django's request too, where decorators and middleware still look."""
    missing = object()
    user = getattr(request, "user", missing)
    try:
        yield
    finally:
        if user is not missing:
            request.user = user  # type: ignore[assignment]


def admit(
    request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str | None, HttpResponseBase | None]:
    """What DRF says of the request before its handler runs: the user it found, or the response that refuses."""
    with _user_kept(request):
        return _ask(request, view, args, kwargs)


def _ask(
    request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str | None, HttpResponseBase | None]:
    instance = _instance(request, view, args, kwargs)
    drf_request = instance.initialize_request(request, *args, **kwargs)
    instance.request = drf_request
    instance.headers = instance.default_response_headers
    try:
        instance.initial(drf_request, *args, **kwargs)
    except Exception as error:  # noqa: BLE001 - DRF's own handler decides, and raises again what it does not know
        response = instance.handle_exception(error)
        final = instance.finalize_response(drf_request, response, *args, **kwargs)
        return None, final.render()
    _throttle_once(type(instance))
    return user_key(drf_request.user), None


def _instance(request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The view as its `as_view` makes it for a request: set up, or with a viewset's actions under their methods."""
    instance = view.cls(**getattr(view, "initkwargs", {}))
    actions = getattr(view, "actions", None)
    if not actions:
        instance.setup(request, *args, **kwargs)
        return instance
    instance.action_map = actions if "get" not in actions else {"head": actions["get"], **actions}
    for method, name in instance.action_map.items():
        setattr(instance, method, getattr(instance, name))
    instance.request, instance.args, instance.kwargs = request, args, kwargs
    return instance


def _throttle_once(cls: Any) -> None:
    """Throttles count at the door. A replay of the same request must not be counted, or refused, again."""
    original = cls.check_throttles
    if getattr(original, "counts_at_the_door", False):
        return

    @functools.wraps(original)
    def check_throttles(self: Any, request: Any) -> None:
        replay = replay_of(request)
        if replay is None or not replay.admitted:
            original(self, request)

    check_throttles.counts_at_the_door = True  # type: ignore[attr-defined]
    cls.check_throttles = check_throttles


def found_user(request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The user whom DRF's authenticators find, None where they find none or refuse."""
    _throttle_once(view.cls)
    instance = _instance(request, view, args, kwargs)
    with _user_kept(request):
        try:
            return user_key(instance.initialize_request(request, *args, **kwargs).user)
        except Exception:  # noqa: BLE001 - a credential that has run out since is no longer one
            return None


def pin(request: HttpRequest, user: Any) -> None:
    """Hand DRF this user, whatever its authenticators find."""
    request._force_auth_user = user  # type: ignore[attr-defined]


def authenticated(request: HttpRequest, record: DispatchRecord) -> Iterator[Any]:
    """The users whom DRF finds for a poll, if it is installed: by its default authenticators, and by those of the view
    that the dispatch is for.
    """
    if not apps.is_installed("rest_framework"):
        return
    default = import_string("rest_framework.views.APIView")  # an optional dependency
    for make in (default, functools.partial(_view_of, request, record)):
        with contextlib.suppress(Exception), _user_kept(request):  # whatever is wrong with a credential, it is nobody's
            yield make().initialize_request(request).user


def _view_of(request: HttpRequest, record: DispatchRecord) -> Any:
    """The view that the path of a dispatch leads to by now. Raises whatever the project's code raises."""
    path = record.path.removeprefix(request.META.get("SCRIPT_NAME", "").rstrip("/"))
    found = resolve(path, getattr(request, "urlconf", None))
    return _instance(request, found.func, found.args, found.kwargs)
