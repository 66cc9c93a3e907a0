"""Who the middleware around the broker finds in a replay: the session and the user of the request as it was accepted.

Whom the session still names is left alone: middleware that lets one user act for another goes by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.apps import apps
from django.utils.decorators import sync_and_async_middleware
from django.utils.functional import SimpleLazyObject
from django.utils.module_loading import import_string

from broker_core.errors import UserInactiveError
from broker_django import past_sessions, principals, users
from broker_django.context import replay_of
from broker_django.merged_sessions import Cookies
from broker_django.past_sessions import Past
from broker_django.sessions import LOGGED_IN, session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest

    from broker_django.context import Replay

AFTER = {
    "django.contrib.sessions.middleware.SessionMiddleware": f"{__name__}.remember_session",
    "django.contrib.auth.middleware.AuthenticationMiddleware": f"{__name__}.expect_user",
}
"""What the handler of replays puts behind these, or their subclasses."""

FIND = "_request_broker_find"
"""The attribute of a request that has the function which finds its user."""


def told(replay: Replay, what: str) -> Any:
    """What the message says of who sent the request, beside the keys of users."""
    return replay.principal.get(what) if isinstance(replay.principal, dict) else None


def had_a_user(replay: Replay) -> bool:
    return replay.user is not None or told(replay, principals.USER) is not None


def accepted(replay: Replay) -> Any:
    """Raises UserInactiveError."""
    return principals.accepted(replay.user, told(replay, principals.USER))


def require_actor(replay: Replay) -> None:
    """Raises UserInactiveError if who acts for the user who was accepted may act no more."""
    key = past_sessions.actor(told(replay, principals.SESSION))
    if key is not None:
        users.active_user(key)


def expect(request: HttpRequest, replay: Replay) -> None:
    """Let the middleware around the broker find the user who was accepted, if the session names nobody any more."""
    if not had_a_user(replay) or not apps.is_installed("django.contrib.auth"):
        return
    get_user = import_string("django.contrib.auth.get_user")

    def find() -> Any:
        session = session_of(request)
        found = get_user(request) if session is not None else users.anonymous()
        if found.is_authenticated:
            return found
        if isinstance(session, Past):
            session.fall_back()
        try:
            return _named(session, replay)
        except UserInactiveError:
            return users.anonymous()  # `door.pin` refuses

    setattr(request, FIND, find)
    request._cached_user = SimpleLazyObject(find)  # type: ignore[attr-defined]


def _named(session: Any, replay: Replay) -> Any:
    """The user of the session as it was, who may have acted for the one who was accepted."""
    if isinstance(session, Past) and session.acts:
        return users.active_user(session.past[LOGGED_IN])
    return accepted(replay)


@sync_and_async_middleware
def remember_session(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Middleware of replays: the session falls back on what it was, and has no cookie then."""

    def remember(request: HttpRequest) -> None:
        replay, session = replay_of(request), session_of(request)
        known = None if replay is None else told(replay, principals.SESSION)
        if known and session is not None:
            request.session = past_sessions.remembering(session, known)

    def guarded(request: HttpRequest, response: Any) -> Any:
        session = session_of(request)
        if isinstance(session, Past):
            response.cookies = Cookies(response.cookies, session)
        return response

    if not iscoroutinefunction(get_response):

        def middleware(request: HttpRequest) -> Any:
            remember(request)
            return guarded(request, get_response(request))

        return middleware

    async def amiddleware(request: HttpRequest) -> Any:
        remember(request)
        return guarded(request, await get_response(request))

    return amiddleware


@sync_and_async_middleware
def expect_user(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Middleware of replays: coroutines find the same user."""

    def expect_it(request: HttpRequest) -> None:
        find = getattr(request, FIND, None)
        if find is None:
            return

        async def auser() -> Any:
            if not hasattr(request, "_acached_user"):
                request._acached_user = await sync_to_async(find)()  # type: ignore[attr-defined]
            return request._acached_user  # type: ignore[attr-defined]

        request.auser = auser

    if not iscoroutinefunction(get_response):

        def middleware(request: HttpRequest) -> Any:
            expect_it(request)
            return get_response(request)

        return middleware

    async def amiddleware(request: HttpRequest) -> Any:
        expect_it(request)
        return await get_response(request)

    return amiddleware
