"""Make a replay act as the user whose request was accepted.

Whichever middleware sets the session and the user, the request completes the values that it is given. A user that the
session still names is kept, because middleware that lets one user act for another depends on it. Afterwards the
broker's middleware replaces any other user.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.utils.functional import LazyObject, SimpleLazyObject, empty
from django.utils.module_loading import import_string

from broker_core.errors import UserInactiveError
from broker_django.annotations.drf import speaks_first, view_class
from broker_django.context import replay_of
from broker_django.identity import drf, past_sessions, principals, users
from broker_django.identity.logged_in import LOGGED_IN, session_of
from broker_django.identity.past_sessions import Past
from broker_django.identity.users import user_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_django.context import Replay, View


def had_a_user(replay: Replay) -> bool:
    return replay.user is not None or replay.known(principals.USER) is not None


def accepted(replay: Replay) -> Any:
    """Returns the accepted user. Raises UserInactiveError."""
    return principals.accepted(replay.user, replay.known(principals.USER))


def require_actor(replay: Replay) -> None:
    """Raises UserInactiveError if the user who acts for the accepted user may no longer act."""
    key = past_sessions.actor(replay.known(principals.SESSION))
    if key is not None:
        users.active_user(key)


def require_view_user(replay: Replay) -> None:
    """Raises UserInactiveError if the user whom the view authenticated may no longer act."""
    if replay.view_user not in (None, replay.user) and not replay.known(principals.AGAIN):
        principals.accepted(replay.view_user, replay.known(principals.VIEW_USER))


def expect(request: HttpRequest, replay: Replay) -> None:
    """Let middleware find the accepted user if the session no longer names one."""
    if not had_a_user(replay):
        return
    kind: Any = type(request)
    request.__class__ = _expecting(kind)
    if apps.is_installed("django.contrib.auth"):
        get_user = import_string("django.contrib.auth.get_user")

        def find() -> Any:
            found = get_user(request) if session_of(request) is not None else users.anonymous()
            return _or_substitute(request, replay, found)

        request._cached_user = SimpleLazyObject(find)  # type: ignore[attr-defined]


def remove_ended_session_cookie(request: HttpRequest, response: HttpResponseBase) -> None:
    """Remove the cookie of a session that has ended, which Django's middleware sets anyway."""
    session = session_of(request)
    if isinstance(session, Past) and session.ended:
        response.cookies.pop(settings.SESSION_COOKIE_NAME, None)


# Before the broker's middleware: what other middleware sets on the request


@lru_cache(maxsize=8)
def _expecting(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Expecting, kind), names)


class Expecting:
    """A request that completes the values set on it, until the broker's middleware runs."""

    META: dict[str, Any]

    def __setattr__(self, name: str, value: Any) -> None:
        complete = COMPLETED.get(name)
        replay = replay_of(self) if complete is not None else None  # type: ignore[arg-type]
        if complete is not None and replay is not None and not replay.entered:
            value = complete(self, replay, value)
        super().__setattr__(name, value)


def _remembering(_request: HttpRequest, replay: Replay, session: Any) -> Any:
    """Returns the session, which falls back to its data at acceptance."""
    known = replay.known(principals.SESSION)
    return past_sessions.remembering(session, known) if known and hasattr(session, "session_key") else session


def _or_accepted(request: HttpRequest, replay: Replay, user: Any) -> Any:
    """Returns the user, or a substitute if the user is anonymous."""
    is_lazy = isinstance(user, LazyObject) and user._wrapped is empty
    if not is_lazy and users.is_authenticated(user):
        return user
    find = user._setupfunc if is_lazy and isinstance(user, SimpleLazyObject) else lambda: user
    return SimpleLazyObject(lambda: _or_substitute(request, replay, find()))


def _coroutine_or_accepted(request: HttpRequest, replay: Replay, find: Callable[[], Any]) -> Any:
    """The same for the coroutine that finds the user. Django's coroutine returns the user that was found before."""

    async def auser() -> Any:
        known = request.__dict__.get("_cached_user")
        if known is not None and "_acached_user" not in request.__dict__:
            session = session_of(request)
            if session is not None:
                session.accessed = True  # as after a read, so that the response varies on its cookie
            await sync_to_async(users.is_authenticated)(known)  # it may make a query
            request._acached_user = known  # type: ignore[attr-defined]
        return await sync_to_async(_or_substitute)(request, replay, await find())

    return auser


COMPLETED: dict[str, Callable[[Any, Replay, Any], Any]] = {
    "session": _remembering,
    "user": _or_accepted,
    "auser": _coroutine_or_accepted,
}


def _or_substitute(request: HttpRequest, replay: Replay, found: Any) -> Any:
    """Returns the user that was found. If that one is anonymous, returns the user of the session at acceptance, or the
    accepted user.
    """
    if users.is_authenticated(found) or replay.reached:  # a view may log its user out
        return found
    session = session_of(request)
    named = None if session is None else session.get(LOGGED_IN)
    if isinstance(session, Past) and named is None:
        session.fall_back()
    elif named not in {None, _logged_in(session, replay)}:
        return found
    try:
        return _user_at_acceptance(session, replay)
    except UserInactiveError:
        return found  # the broker's middleware refuses


def _logged_in(session: Any, replay: Replay) -> Any:
    """Returns the user that the session named when the request was accepted."""
    return session.past.get(LOGGED_IN) if isinstance(session, Past) else replay.user


def _user_at_acceptance(session: Any, replay: Replay) -> Any:
    """Returns the user of the session at acceptance, who may have acted for the accepted user."""
    if isinstance(session, Past) and session.acts:
        return users.active_user(session.past[LOGGED_IN])
    return accepted(replay)


# In the broker's middleware, and at the view


def restore_user(request: HttpRequest, replay: Replay) -> None:
    """Make the replay act as the user who was accepted, if the middleware finds another one now.

    Raises UserInactiveError if that user is deleted or may no longer log in.
    """
    found, named = _user_without_trace(request), had_a_user(replay)
    if found is None:
        return
    frozen = replay.known(principals.USER)
    if principals.is_same(found, replay.user, frozen) if named else user_key(found) is None:
        return
    request.user = user = accepted(replay) if named else users.anonymous()
    request._cached_user = request._acached_user = user  # type: ignore[attr-defined]


def _user_without_trace(request: HttpRequest) -> Any:
    """Returns the user without marking the session as accessed, which would make the response vary on its cookie."""
    user, session = getattr(request, "user", None), session_of(request)
    if user is None or session is None or session.accessed:
        return user

    user_key(user)
    logged_in = session.get(LOGGED_IN)
    session.accessed = False
    if isinstance(user, SimpleLazyObject):
        find = user._setupfunc  # a view may reset the lazy user, so that it is found again

        def load() -> Any:
            request.session.accessed = True
            if request.session.get(LOGGED_IN) != logged_in:  # the view has flushed the session
                request.__dict__.pop("_cached_user", None)
            return find()

        request.user = SimpleLazyObject(load)  # type: ignore[assignment]
    return user


def restore_view_user(request: HttpRequest, view: View, replay: Replay) -> None:
    """The same for a view that authenticates users itself. Raises UserInactiveError."""
    if view_class(view.function) is None:
        return
    known = replay.known(principals.ADMITTED) is not None  # not in messages from code or older releases
    replay.admitted = bool(replay.known(principals.ADMITTED)) if known else speaks_first(view.function)
    if replay.admitted:
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined] # as its authenticators did when it was accepted
    if replay.view_user is None and all(replay.known(who) is None for who in (principals.VIEW_USER, principals.GUEST)):
        return
    found = drf.found(request, view.function, view.args, view.kwargs)
    instead = principals.found_as_accepted(found, replay.view_user, replay.principal or {})
    if instead is not None:
        drf.set_user(request, instead.user, instead.auth)
