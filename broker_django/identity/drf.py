"""Run Django REST framework's authentication, permissions and throttles before a request is accepted."""

from __future__ import annotations

import contextlib
import copy
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.exceptions import PermissionDenied
from django.db import Error as DatabaseFailure
from django.http import Http404
from django.urls import resolve
from django.utils import translation
from django.utils.module_loading import import_string
from django.views.generic.base import View

from broker_core.errors import UnavailableError
from broker_django.annotations.drf import speaks_first, view_class
from broker_django.context import replay_of
from broker_django.identity.owners import owner_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.dispatches import Dispatch


@contextlib.contextmanager
def _user_kept(request: HttpRequest) -> Iterator[None]:
    """Restore the request's user: DRF also sets the user that it finds on Django's request, where decorators and
    middleware read it.
    """
    missing = object()
    user = getattr(request, "user", missing)
    try:
        yield
    finally:
        if user is not missing:
            request.user = user  # type: ignore[assignment]


class CannotAskError(Exception):
    """The view cannot be asked before it runs, because it prepares something only then."""


@dataclass(frozen=True, slots=True)
class Found:
    """The user that a view authenticated, and by what; `admitted` if its permissions and throttles allow the request.

    `by_body` means that the body may have influenced the result. `again` is False if a poll cannot ask the view in the
    same way, because the view may find another user when it runs.
    """

    user: Any = None
    auth: Any = None
    admitted: bool = False
    again: bool = True
    by_body: bool = False


def admit(
    request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Found | None, HttpResponseBase | None]:
    """Returns the user that DRF finds before the handler runs, or the response that refuses the request.

    A view that cannot be asked now is asked when it runs, in the replay.
    """
    if speaks_first(view) and not _overrides_dispatch(view_class(view)):
        with contextlib.suppress(CannotAskError), _user_kept(request):
            unprepared = _copied(request)
            asked, refusal = _ask(_copied(request), view, args, kwargs)
            if asked is not None and _overrides_setup(view_class(view)):
                asked = replace(asked, again=_finds(asked, found(unprepared, view, args, kwargs)))
            return asked, refusal
    known = found(request, view, args, kwargs)
    return (known if owner_of(known.user, known.auth) else replace(known, again=False)), None


def _overrides_dispatch(cls: Any) -> bool:
    """Whether the class overrides `dispatch`, which may answer by itself or prepare something for authentication.

    Compares functions, because a decorated one still names DRF's module.
    """
    return cls.dispatch is not import_string("rest_framework.views.APIView").dispatch


def _overrides_setup(cls: Any) -> bool:
    """Whether the class overrides `setup`, which may prepare something that its authenticators read."""
    return cls.setup is not View.setup


def _finds(asked: Found, unprepared: Found) -> bool:
    return unprepared.again and owner_of(unprepared.user, unprepared.auth) == owner_of(asked.user, asked.auth)


def _copied(request: HttpRequest) -> HttpRequest:
    """Returns a copy of the request, with copies of what a view may write to."""
    copied = copy.copy(request)
    copied.META, copied.COOKIES = dict(request.META), dict(request.COOKIES)
    copied.__dict__.pop("headers", None)
    return copied


def _ask(
    request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Found | None, HttpResponseBase | None]:
    try:
        instance = _instance(request, view, args, kwargs)
        if not getattr(view, "actions", None):  # DRF does not call `setup` on viewsets
            instance.setup(request, *args, **kwargs)
        drf_request = instance.initialize_request(request, *args, **kwargs)
    except Exception as error:
        raise CannotAskError from error
    instance.request = drf_request
    instance.headers = instance.default_response_headers
    try:
        instance.initial(drf_request, *args, **kwargs)
    except Exception as error:  # noqa: BLE001 - DRF decides which errors become a response
        return None, _refusal(instance, drf_request, error)
    _throttle_once(type(instance))
    try:
        return Found(drf_request.user, drf_request.auth, admitted=True, by_body=_has_read(drf_request)), None
    except Exception as error:  # it may authenticate when it runs
        raise CannotAskError from error


def _refusal(instance: Any, drf_request: Any, error: Exception) -> HttpResponseBase:
    """Returns DRF's own response. Raises CannotAskError if the error is not a refusal."""
    try:
        response = instance.handle_exception(error)
        final: HttpResponseBase = instance.finalize_response(drf_request, response, *instance.args, **instance.kwargs)
        return final.render()  # type: ignore[attr-defined, no-any-return]
    except Exception as unknown:
        raise CannotAskError from unknown


def _instance(request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Returns the view instance that `as_view` makes for a request, but without calling its `setup`."""
    instance = view.cls(**getattr(view, "initkwargs", {}))
    actions = getattr(view, "actions", None)
    if actions:
        instance.action_map = actions if "get" not in actions else {"head": actions["get"], **actions}
        for method, name in instance.action_map.items():
            setattr(instance, method, getattr(instance, name))
    instance.request, instance.args, instance.kwargs = request, args, kwargs
    return instance


def _throttle_once(cls: Any) -> None:
    """Count throttles only when a request is accepted. Its replay must not be counted or refused again."""
    original = cls.check_throttles
    if getattr(original, "counts_once", False):
        return

    @functools.wraps(original)
    def check_throttles(self: Any, request: Any) -> None:
        replay = replay_of(request)
        if replay is None or not replay.admitted:
            original(self, request)

    check_throttles.counts_once = True  # type: ignore[attr-defined]
    cls.check_throttles = check_throttles


def found(request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Found:
    """Returns the user that DRF's authenticators find; no user if they refuse, as for an expired credential.

    The view's `setup` is not called: it may count, query or lock something, and runs with the view.
    """
    _throttle_once(view.cls)
    with _user_kept(request):
        try:
            drf_request = _instance(request, view, args, kwargs).initialize_request(request, *args, **kwargs)
            return Found(drf_request.user, drf_request.auth, by_body=_has_read(drf_request))
        except Exception as error:  # noqa: BLE001 - the project's code may raise anything
            return Found(again=_is_refusal(error))


def _has_read(drf_request: Any) -> bool:
    """Whether the body was parsed. REST framework parses it on first use."""
    return getattr(drf_request, "_full_data", None) is not import_string("rest_framework.request.Empty")


def _is_refusal(error: Exception) -> bool:
    refusals = (import_string("rest_framework.exceptions.APIException"), PermissionDenied, Http404)
    return isinstance(error, refusals)


def set_user(request: HttpRequest, user: Any, auth: Any = None) -> None:
    """Make DRF use this user and authentication, whatever its authenticators find."""
    request._force_auth_user = user  # type: ignore[attr-defined]
    request._force_auth_token = auth  # type: ignore[attr-defined]


def authenticated(request: HttpRequest, dispatch: Dispatch) -> Iterator[Found]:
    """Yields the users that DRF finds for a poll: with its default authenticators, and with those of the dispatch's
    view. None without DRF.

    Raises UnavailableError if an authenticator does not answer now.
    """
    if not apps.is_installed("rest_framework"):
        return
    default = import_string("rest_framework.views.APIView")()  # optional dependency
    with_method = copy.copy(request)
    with_method.method = dispatch.method  # authenticators may depend on it
    with_method._dont_enforce_csrf_checks = True  # type: ignore[attr-defined] # nothing is done
    outages: list[Exception] = []
    yield from _by(default, request, outages)
    for asked in (request, with_method):
        yield from _by(_view_of(asked, dispatch), asked, outages)
    if outages:
        raise UnavailableError("an authenticator of the project does not answer") from outages[0]


def _by(view: Any, request: HttpRequest, outages: list[Exception]) -> Iterator[Found]:
    if view is None:
        return
    with _user_kept(request):
        try:
            drf_request = view.initialize_request(request)
            found = Found(drf_request.user, drf_request.auth)
        except Exception as error:  # noqa: BLE001 - the project's code may raise anything
            if _is_outage(error):
                outages.append(error)
            return
    yield found


def _is_outage(error: Exception) -> bool:
    """Whether a database or another service cannot be reached."""
    return isinstance(error, (DatabaseFailure, OSError)) or type(error).__module__.partition(".")[0] in _CLIENTS


_CLIENTS = frozenset({"aiohttp", "botocore", "grpc", "httpcore", "httpx", "ldap", "redis", "requests", "urllib3"})
"""Packages whose exceptions mean that a service cannot be reached."""


def _view_of(request: HttpRequest, dispatch: Dispatch) -> Any:
    """Returns the DRF view that the dispatch's path now resolves to; None for any other view, or a 404."""
    path = dispatch.path.removeprefix(request.META.get("SCRIPT_NAME", "").rstrip("/"))
    language = translation.get_language_from_path(path) or translation.get_language()
    try:
        with translation.override(language):
            found = resolve(path, getattr(request, "urlconf", None))
        return _instance(request, found.func, found.args, found.kwargs) if view_class(found.func) is not None else None
    except Exception:  # noqa: BLE001 - the project's code may raise anything
        return None
