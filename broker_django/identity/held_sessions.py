"""The session of a client that is held: the view that it waits for writes into the same one meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from broker_django.identity import logged_in, sessions
from broker_django.identity.merged_sessions import merged

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase


def leave(request: HttpRequest) -> HttpResponse:
    """Save what middleware changed in the session on this very request. What is returned carries its cookies."""
    _cookies, carrier = sessions.settle(request)
    return carrier


def take_up(request: HttpRequest) -> None:
    """Let the outer chain go on with the session as it is after the wait.

    A login gives a session another key, and a logout ends it. The client is told so by the response of that view:
    nothing that the outer chain would write now is for it.
    """
    session = logged_in.session_of(request)
    if session is not None and session.session_key is not None:
        request.session = late = merged(session)
        late.ended = not session.exists(session.session_key)
    else:
        _keep_ended(request)


def hand_over(request: HttpRequest, response: HttpResponseBase, carrier: HttpResponse) -> None:
    """Add the cookies of `leave`, but for those that the response sets itself."""
    sessions.guard(request, response)
    for name, morsel in carrier.cookies.items():
        if name not in response.cookies:
            response.cookies[name] = morsel


def keep_cookie(request: HttpRequest, response: HttpResponseBase) -> None:
    """Let a poll not delete the cookie of a session that has ended: its browser is known by it."""
    if _keep_ended(request):
        sessions.guard(request, response)


def _keep_ended(request: HttpRequest) -> bool:
    """Whether the cookie of the request is that of a session that has ended; the outer chain leaves it then."""
    session = logged_in.session_of(request)
    if session is None or session.session_key is not None or settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return False
    request.session = late = merged(session)
    late.ended = True
    return True
