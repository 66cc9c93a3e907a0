"""Django REST framework at the door: authentication, permissions and throttles speak before anything is accepted."""

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
    """DRF sets the user whom it finds on Django's request too, where decorators and middleware still look."""
    missing = object()
    user = getattr(request, "user", missing)
    try:
        yield
    finally:
        if user is not missing:
            request.user = user  # type: ignore[assignment]


class CannotAskError(Exception):
    """The view is not ready to be asked at the door: what it needs, it makes when it runs."""


@dataclass(frozen=True, slots=True)
class Found:
    """Whom a view has authenticated, and by what; `admitted` if its permissions and throttles let the request in.

    `by_body` says that the body may have had a say. `again` is False if a poll could not ask the view in the same way:
    it may find anybody when it runs.
    """

    user: Any = None
    auth: Any = None
    admitted: bool = False
    again: bool = True
    by_body: bool = False


def admit(
    request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Found | None, HttpResponseBase | None]:
    """What DRF says of the request before its handler runs: whom it found, or the response that refuses.

    A view that cannot be asked is asked when it runs, in the replay.
    """
    if speaks_first(view) and not _begins_on_its_own(view_class(view)):
        with contextlib.suppress(CannotAskError), _user_kept(request):
            unprepared = _copied(request)
            asked, refusal = _ask(_copied(request), view, args, kwargs)
            if asked is not None and _sets_up(view_class(view)):
                asked = replace(asked, again=_finds(asked, found(unprepared, view, args, kwargs)))
            return asked, refusal
    known = found(request, view, args, kwargs)
    return (known if owner_of(known.user, known.auth) else replace(known, again=False)), None


def _begins_on_its_own(cls: Any) -> bool:
    """Whether the class has a `dispatch` of its own, which may answer without asking, or prepare what is asked.

    A decorated one says that it is in DRF's module.
    """
    return cls.dispatch is not import_string("rest_framework.views.APIView").dispatch


def _sets_up(cls: Any) -> bool:
    """Whether the class has a `setup` of its own, which may prepare what its authenticators look at."""
    return cls.setup is not View.setup


def _finds(asked: Found, unprepared: Found) -> bool:
    return unprepared.again and owner_of(unprepared.user, unprepared.auth) == owner_of(asked.user, asked.auth)


def _copied(request: HttpRequest) -> HttpRequest:
    """With what a view may write into it."""
    copied = copy.copy(request)
    copied.META, copied.COOKIES = dict(request.META), dict(request.COOKIES)
    copied.__dict__.pop("headers", None)
    return copied


def _ask(
    request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Found | None, HttpResponseBase | None]:
    try:
        instance = _instance(request, view, args, kwargs)
        if not getattr(view, "actions", None):  # DRF does not set up a viewset
            instance.setup(request, *args, **kwargs)
        drf_request = instance.initialize_request(request, *args, **kwargs)
    except Exception as error:
        raise CannotAskError from error
    instance.request = drf_request
    instance.headers = instance.default_response_headers
    try:
        instance.initial(drf_request, *args, **kwargs)
    except Exception as error:  # noqa: BLE001 - of which DRF makes a response, or not
        return None, _refusal(instance, drf_request, error)
    _throttle_once(type(instance))
    try:
        return Found(drf_request.user, drf_request.auth, admitted=True, by_body=_has_read(drf_request)), None
    except Exception as error:  # it authenticates when it runs, if at all
        raise CannotAskError from error


def _refusal(instance: Any, drf_request: Any, error: Exception) -> HttpResponseBase:
    """DRF's own response. Raises CannotAskError for an error that is nobody's refusal."""
    try:
        response = instance.handle_exception(error)
        final: HttpResponseBase = instance.finalize_response(drf_request, response, *instance.args, **instance.kwargs)
        return final.render()  # type: ignore[attr-defined, no-any-return]
    except Exception as unknown:
        raise CannotAskError from unknown


def _instance(request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The view as its `as_view` makes it for a request, but not set up by its own `setup`."""
    instance = view.cls(**getattr(view, "initkwargs", {}))
    actions = getattr(view, "actions", None)
    if actions:
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


def found(request: HttpRequest, view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Found:
    """Whom DRF's authenticators find; nobody if they refuse, a credential that has run out since being none any more.

    The view is not set up: that may count, look up or lock something, and happens when it runs.
    """
    _throttle_once(view.cls)
    with _user_kept(request):
        try:
            drf_request = _instance(request, view, args, kwargs).initialize_request(request, *args, **kwargs)
            return Found(drf_request.user, drf_request.auth, by_body=_has_read(drf_request))
        except Exception as error:  # noqa: BLE001 - of the project's own code
            return Found(again=_is_refusal(error))


def _has_read(drf_request: Any) -> bool:
    """Whether the body was parsed: REST framework does so when it is first asked for."""
    return getattr(drf_request, "_full_data", None) is not import_string("rest_framework.request.Empty")


def _is_refusal(error: Exception) -> bool:
    refusals = (import_string("rest_framework.exceptions.APIException"), PermissionDenied, Http404)
    return isinstance(error, refusals)


def pin(request: HttpRequest, user: Any, auth: Any = None) -> None:
    """Hand DRF this user and what authenticated it, whatever its authenticators find."""
    request._force_auth_user = user  # type: ignore[attr-defined]
    request._force_auth_token = auth  # type: ignore[attr-defined]


def authenticated(request: HttpRequest, dispatch: Dispatch) -> Iterator[Found]:
    """Whom DRF finds for a poll, if it is installed: by its default authenticators, and by those of the view that the
    dispatch is for.

    Raises UnavailableError if one of them does not answer now.
    """
    if not apps.is_installed("rest_framework"):
        return
    default = import_string("rest_framework.views.APIView")()  # an optional dependency
    with_method = copy.copy(request)
    with_method.method = dispatch.method  # which authenticators may be chosen by
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
        except Exception as error:  # noqa: BLE001 - of the project's own code
            if _is_outage(error):
                outages.append(error)
            return
    yield found


def _is_outage(error: Exception) -> bool:
    """Whether a database or another service is out of reach."""
    return isinstance(error, (DatabaseFailure, OSError)) or type(error).__module__.partition(".")[0] in _CLIENTS


_CLIENTS = frozenset({"aiohttp", "botocore", "grpc", "httpcore", "httpx", "ldap", "redis", "requests", "urllib3"})
"""Packages whose exceptions say so."""


def _view_of(request: HttpRequest, dispatch: Dispatch) -> Any:
    """The view of DRF that the path of a dispatch leads to by now; None if there is none."""
    path = dispatch.path.removeprefix(request.META.get("SCRIPT_NAME", "").rstrip("/"))
    language = translation.get_language_from_path(path) or translation.get_language()
    try:
        with translation.override(language):
            found = resolve(path, getattr(request, "urlconf", None))
        return _instance(request, found.func, found.args, found.kwargs) if view_class(found.func) is not None else None
    except Exception:  # noqa: BLE001 - of the project's own code
        return None
