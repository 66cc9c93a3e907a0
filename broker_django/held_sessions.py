"""The session of a client that is held: the view that it waits for writes into the same one meanwhile."""

from __future__ import annotations

from http.cookies import Morsel, SimpleCookie
from typing import TYPE_CHECKING, Any

from django.conf import settings

from broker_django import sessions
from broker_django.merged_sessions import merged

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase


def leave(request: HttpRequest) -> HttpResponse:
    """Save what middleware changed in the session on this very request. What is returned carries its cookies."""
    _cookies, carrier = sessions.settle(request)
    return carrier


def take_up(request: HttpRequest) -> bool:
    """Let the outer chain go on with the session as it is after the wait. Whether it is still the client's.

    A login gives a session another key, and a logout ends it. The client is told so by the response of that view:
    nothing that the outer chain would write now is for it.
    """
    session = getattr(request, "session", None)
    if session is None or session.session_key is None:
        return True
    request.session = merged(session)
    return bool(session.exists(session.session_key))


def hand_over(response: HttpResponseBase, carrier: HttpResponse, *, same_session: bool) -> None:
    """Add the cookies of `leave`, but for those that the response sets itself."""
    for name, morsel in carrier.cookies.items():
        if name not in response.cookies and (same_session or name != settings.SESSION_COOKIE_NAME):
            response.cookies[name] = morsel
    if not same_session:
        response.cookies = _WithoutSession(response.cookies)


class _WithoutSession(SimpleCookie):
    """Cookies to which the outer chain can add none for a session, or change it."""

    def __init__(self, cookies: SimpleCookie) -> None:
        super().__init__()
        for name, morsel in cookies.items():
            super().__setitem__(name, morsel)

    def __setitem__(self, key: str, value: Any) -> None:
        if key != settings.SESSION_COOKIE_NAME:
            super().__setitem__(key, value)

    def __getitem__(self, key: str) -> Morsel[str]:
        if key != settings.SESSION_COOKIE_NAME:
            return super().__getitem__(key)
        return super().__getitem__(key).copy() if key in self else Morsel()
