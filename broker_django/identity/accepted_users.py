"""Who the middleware around the broker finds in a replay: the session and the user of the request as it was accepted.

Whichever middleware sets them, the request completes what it is given. Whom the session still names is left alone:
middleware that lets one user act for another goes by it.
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
from broker_django.context import replay_of
from broker_django.identity import past_sessions, principals, users
from broker_django.identity.logged_in import LOGGED_IN, session_of
from broker_django.identity.past_sessions import Past

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_django.context import Replay


def had_a_user(replay: Replay) -> bool:
    return replay.user is not None or replay.known(principals.USER) is not None


def accepted(replay: Replay) -> Any:
    """Raises UserInactiveError."""
    return principals.accepted(replay.user, replay.known(principals.USER))


def require_actor(replay: Replay) -> None:
    """Raises UserInactiveError if who acts for the user who was accepted may act no more."""
    key = past_sessions.actor(replay.known(principals.SESSION))
    if key is not None:
        users.active_user(key)


def expect(request: HttpRequest, replay: Replay) -> None:
    """Let the middleware around the broker find the user who was accepted, if the session names nobody any more."""
    if not had_a_user(replay):
        return
    kind: Any = type(request)
    request.__class__ = _expecting(kind)
    if apps.is_installed("django.contrib.auth"):
        get_user = import_string("django.contrib.auth.get_user")

        def find() -> Any:
            found = get_user(request) if session_of(request) is not None else users.anonymous()
            return _stand_in(request, replay, found)

        request._cached_user = SimpleLazyObject(find)  # type: ignore[attr-defined]


def without_past_session(request: HttpRequest, response: HttpResponseBase) -> None:
    """Take out the cookie of a session that has ended, which Django's middleware sets all the same."""
    session = session_of(request)
    if isinstance(session, Past) and session.ended:
        response.cookies.pop(settings.SESSION_COOKIE_NAME, None)


# What is set on the request


@lru_cache(maxsize=8)
def _expecting(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Expecting, kind), names)


class Expecting:
    """A request that completes what is set on it, until it comes to the broker's middleware."""

    META: dict[str, Any]

    def __setattr__(self, name: str, value: Any) -> None:
        complete = COMPLETED.get(name)
        replay = replay_of(self) if complete is not None else None  # type: ignore[arg-type]
        if complete is not None and replay is not None and not replay.entered:
            value = complete(self, replay, value)
        super().__setattr__(name, value)


def _remembering(_request: HttpRequest, replay: Replay, session: Any) -> Any:
    """The session falls back on what it was."""
    known = replay.known(principals.SESSION)
    return past_sessions.remembering(session, known) if known and hasattr(session, "session_key") else session


def _or_accepted(request: HttpRequest, replay: Replay, user: Any) -> Any:
    """The user, or whoever stands in for one who turns out to be nobody."""
    is_lazy = isinstance(user, LazyObject) and user._wrapped is empty
    if not is_lazy and _is_somebody(user):
        return user
    find = user._setupfunc if is_lazy and isinstance(user, SimpleLazyObject) else lambda: user
    return SimpleLazyObject(lambda: _stand_in(request, replay, find()))


def _coroutine_or_accepted(request: HttpRequest, replay: Replay, find: Callable[[], Any]) -> Any:
    """The same for the coroutine that finds the user. Django's finds the one that was found before."""

    async def auser() -> Any:
        known = request.__dict__.get("_cached_user")
        if known is not None and "_acached_user" not in request.__dict__:
            session = session_of(request)
            if session is not None:
                session.accessed = True  # as if it were asked: the response varies on its cookie
            await sync_to_async(_is_somebody)(known)  # it may ask the database
            request._acached_user = known  # type: ignore[attr-defined]
        return await sync_to_async(_stand_in)(request, replay, await find())

    return auser


COMPLETED: dict[str, Callable[[Any, Replay, Any], Any]] = {
    "session": _remembering,
    "user": _or_accepted,
    "auser": _coroutine_or_accepted,
}


def _is_somebody(user: Any) -> bool:
    return bool(getattr(user, "is_authenticated", False))


def _stand_in(request: HttpRequest, replay: Replay, found: Any) -> Any:
    """The user who was found; if that is nobody, the one of the session as it was, or who was accepted."""
    if _is_somebody(found) or replay.reached:  # a view may log its user out
        return found
    session = session_of(request)
    named = None if session is None else session.get(LOGGED_IN)
    if isinstance(session, Past) and named is None:
        session.fall_back()
    elif named not in {None, _logged_in(session, replay)}:
        return found
    try:
        return _named(session, replay)
    except UserInactiveError:
        return found  # `door.enter` refuses


def _logged_in(session: Any, replay: Replay) -> Any:
    """The user whom the session named when the request was accepted."""
    return session.past.get(LOGGED_IN) if isinstance(session, Past) else replay.user


def _named(session: Any, replay: Replay) -> Any:
    """The user of the session as it was, who may have acted for the one who was accepted."""
    if isinstance(session, Past) and session.acts:
        return users.active_user(session.past[LOGGED_IN])
    return accepted(replay)
