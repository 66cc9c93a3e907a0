"""Sessions, CSRF secrets and cookies when a request is accepted: its replay uses the session that the client will have.

Outer middleware may have started a session or rotated the CSRF secret for this request. Both are saved before the
message is published, so that the replay and the outer middleware do not each create their own.

A project may not use Django's sessions, messages and users. Their code is imported only for a request that has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.http import HttpResponse
from django.utils.module_loading import import_string

from broker_django.identity.logged_in import session_of
from broker_django.identity.merged_sessions import Cookies, Merging, merged, reopened

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase


def changes_with_each_save(session: Any) -> bool:
    """Whether the cookie contains the session data, signed again with each save."""
    return any(kind.__module__ == "django.contrib.sessions.backends.signed_cookies" for kind in type(session).__mro__)


def save_early(request: HttpRequest) -> tuple[dict[str, str], HttpResponse]:
    """Save what outer middleware changed in the session, and its messages for the user.

    Returns the cookies for the replay, and a response that carries the cookies for the client.
    """
    carrier = HttpResponse()
    _save_messages(request, carrier)
    session = session_of(request)
    if session is not None and session.modified:
        middleware = import_string("django.contrib.sessions.middleware.SessionMiddleware")
        middleware(lambda _request: carrier).process_response(request, carrier)
        session.modified = False
    cookies = {name: morsel.coded_value for name, morsel in carrier.cookies.items() if morsel["max-age"] != 0}
    secret = request.META.get("CSRF_COOKIE")
    if secret and request.META.get("CSRF_COOKIE_NEEDS_UPDATE") and not settings.CSRF_USE_SESSIONS:
        cookies[settings.CSRF_COOKIE_NAME] = secret
    return cookies, carrier


def _save_messages(request: HttpRequest, carrier: HttpResponse) -> None:
    storage = getattr(request, "_messages", None)
    if storage is not None and storage.added_new:
        storage.update(carrier)
        storage.added_new = False


def detach(request: HttpRequest) -> None:
    """Prevent the outer middleware from saving its copy of the session over what the replay writes.

    With `SESSION_SAVE_EVERY_REQUEST`, the replay saves the session for this request.
    """
    session = session_of(request)
    if session is not None:
        request.session = merged(session, only_changes=True)


def guard(request: HttpRequest, response: HttpResponseBase) -> None:
    """Prevent the outer middleware from setting a cookie for a session whose key another request changed, or that it
    ended.
    """
    session = session_of(request)
    if isinstance(session, Merging):
        response.cookies = Cookies(response.cookies, session)


def adopt(request: HttpRequest, response: HttpResponseBase) -> None:
    """Let the outer middleware continue with the session, messages and CSRF state that the replay left."""
    session = session_of(request)
    if session is not None:
        morsel = response.cookies.get(settings.SESSION_COOKIE_NAME)
        of_session = morsel is not None and _user_is_of_session(request)
        if morsel is None and session.session_key is not None:
            request.session = merged(session, only_changes=True)  # it may have ended, and then there is no new one
        else:
            request.session = reopened(session, None if morsel is None else morsel.value or None)
        if of_session:
            _forget_user(request)
    _adopt_cookies(request, response)
    if hasattr(request, "_messages"):
        request._messages = import_string("django.contrib.messages.storage.default_storage")(request)
    if settings.CSRF_COOKIE_NAME in response.cookies:
        request.META["CSRF_COOKIE_NEEDS_UPDATE"] = False
    guard(request, response)


def _user_is_of_session(request: HttpRequest) -> bool:
    """Whether Django's AuthenticationMiddleware found the user. Only it sets `auser`."""
    user = getattr(request, "user", None)
    if user is None or not hasattr(request, "auser"):
        return False
    return not user.is_authenticated or import_string("django.contrib.auth.SESSION_KEY") in request.session


def _forget_user(request: HttpRequest) -> None:
    """Let the outer middleware find the user again: the view may have logged a user in or out."""
    request.__dict__.pop("_cached_user", None)
    request.__dict__.pop("_acached_user", None)
    middleware = import_string("django.contrib.auth.middleware.AuthenticationMiddleware")
    middleware(lambda _request: HttpResponse()).process_request(request)


def _adopt_cookies(request: HttpRequest, response: HttpResponseBase) -> None:
    for name, morsel in response.cookies.items():
        if morsel["max-age"] == 0:
            request.COOKIES.pop(name, None)
        else:
            request.COOKIES[name] = morsel.value
