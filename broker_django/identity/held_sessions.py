"""The session of a client that waits for its view: the view writes to the same session meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from broker_django.identity import logged_in, sessions
from broker_django.identity.merged_sessions import merged

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase


def save(request: HttpRequest) -> HttpResponse:
    """Save what middleware changed in the session of this request. Returns a response that carries its cookies."""
    _cookies, carrier = sessions.save_early(request)
    return carrier


def restore(request: HttpRequest) -> None:
    """Let the outer middleware continue with the session as it is after the wait.

    A login changes the session's key and a logout ends the session. The response of that view sets the cookie, so the
    outer middleware must write nothing.
    """
    session = logged_in.session_of(request)
    if session is not None and session.session_key is not None:
        request.session = late = merged(session)
        late.ended = not session.exists(session.session_key)
    else:
        _keep_ended(request)


def add_cookies(request: HttpRequest, response: HttpResponseBase, carrier: HttpResponse) -> None:
    """Add the cookies of `save` that the response does not set itself."""
    sessions.guard(request, response)
    for name, morsel in carrier.cookies.items():
        if name not in response.cookies:
            response.cookies[name] = morsel


def keep_cookie(request: HttpRequest, response: HttpResponseBase) -> None:
    """Do not let a poll delete the cookie of a session that has ended, because it identifies the browser."""
    if _keep_ended(request):
        sessions.guard(request, response)


def _keep_ended(request: HttpRequest) -> bool:
    """Returns whether the request's cookie is that of an ended session. The outer middleware then leaves it alone."""
    session = logged_in.session_of(request)
    if session is None or session.session_key is not None or settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return False
    request.session = late = merged(session)
    late.ended = True
    return True
