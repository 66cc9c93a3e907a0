"""Who owns a dispatch, and who receives the cookies of its response: the two rules that SECURITY.md states.

They apply everywhere: status, response, events, cancellation, and repeated Idempotency-Keys.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.db.models import Model
from django.http.request import split_domain_port
from django.utils.crypto import constant_time_compare
from django.utils.module_loading import import_string

from broker_core.errors import TenantUnknownError
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.identity import credentials, drf, users
from broker_django.identity.logged_in import session_of
from broker_django.identity.owners import UNIDENTIFIED, is_unidentified, owner_of
from broker_django.identity.sessions import changes_with_each_save

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_core.dispatches import Dispatch
    from broker_django.identity.drf import Found

logger = logging.getLogger("broker_django.identity.ownership")

CLAIM = "request_broker_claim"
"""The cookie that identifies a browser whose request was accepted without a user."""


def owns(request: HttpRequest, dispatch: Dispatch) -> bool:
    """Whether the dispatch belongs to the sender of this request.

    A user's dispatch belongs to that user, if active. The sender must be logged in as this user, or send the session of
    the original request (unless another user now has it), or be found by REST framework's authenticators.

    For any other dispatch, the sender must send all credentials of the original request again, if there were any. The
    claim replaces the session and unnamed header fields. If the user cannot be distinguished from others, there must be
    at least one credential.

    Raises UnavailableError if an authenticator does not answer now.
    """
    if not _is_of_this_site(request, dispatch):
        return False
    credential = dispatch.credential
    if not dispatch.user or is_unidentified(dispatch.user):
        is_shown = _is_shown(request, dispatch) and (not dispatch.user or users.may_act(dispatch.user))
        user = dispatch.user.removeprefix(UNIDENTIFIED)
        return is_shown or (bool(user) and _is_user(request, dispatch, user))
    may_show = bool(credential) and credentials.shows_again(request, credential) and users.may_act(dispatch.user)
    if may_show and credentials.names_user(request, dispatch.user):
        return True  # the user's new password invalidates the session, but its browser still polls
    if may_show and owner_of(getattr(request, "user", None)) is None:
        return True
    return _is_user(request, dispatch, dispatch.user)


def _is_user(request: HttpRequest, dispatch: Dispatch, user: str) -> bool:
    """Whether this active user sends the request, by the session or by what REST framework finds.

    Raises UnavailableError if an authenticator does not answer now.
    """
    if owner_of(getattr(request, "user", None)) == user:
        return users.is_active(request.user)
    found = drf.authenticated(request, dispatch)
    return any(owner_of(each.user, each.auth) == user and _is_active(each) for each in found)


def _is_shown(request: HttpRequest, dispatch: Dispatch) -> bool:
    """Whether a client without an identifiable user shows what it sent, or a claim for it."""
    credential = dispatch.credential
    if credentials.shows_again(request, credential) and (credential or not dispatch.user):
        return True
    return credentials.shows_named(request, credential) and claims(request, dispatch)


def _is_active(found: Found) -> bool:
    """Whether the user's row is active. For other kinds of users only the authenticator knows, and it has found the
    user.
    """
    return not isinstance(found.user, Model) or users.is_active(found.user)


def may_have_cookies(request: HttpRequest, dispatch: Dispatch) -> bool:
    """Whether the response's cookies are for the sender: only the browser that sent the original request receives them.

    Its session cookie or its claim identifies it. Another login of the same user is another browser.
    """
    by_session = credentials.SESSION in credentials.kinds(dispatch.credential)
    return (by_session and credentials.shows_session(request, dispatch.credential)) or claims(request, dispatch)


def without_cookies(response: HttpResponseBase) -> None:
    """Remove cookies set with `set_cookie` or as a header field, and `Clear-Site-Data`."""
    response.cookies = SimpleCookie()
    for name in ("Set-Cookie", "Clear-Site-Data"):
        response.headers.pop(name, None)


def is_known_by_session(request: HttpRequest, dispatch: Dispatch) -> bool:
    """Whether an unchanging session cookie identifies the user's browser, so that no claim is needed."""
    of_user = bool(dispatch.user) and not is_unidentified(dispatch.user)
    by_session = of_user and credentials.SESSION in credentials.kinds(dispatch.credential)
    return by_session and not changes_with_each_save(session_of(request))


# The site


def host_of(request: HttpRequest) -> str:
    """Returns the host of the request without its port, as for cookies; empty if it is not a host of this site."""
    try:
        return _domain(request.get_host())
    except DisallowedHost:
        return ""


def host_in(url: str) -> str:
    """The same for an absolute URL that was built for the request."""
    return _domain(url.split("/", 3)[2])


def _domain(host: str) -> str:
    return split_domain_port(host)[0][:255]


def tenant_of(request: HttpRequest) -> str:
    """Returns what the function in TENANT returns; empty if TENANT is not set.

    Raises TenantUnknownError if the function fails.
    """
    if not conf.TENANT:
        return ""
    try:
        return _name_of_tenant(_tenant_function(conf.TENANT)(request))
    except Exception as error:
        _log_once(conf.TENANT, redacted(error))
        raise TenantUnknownError("the function that TENANT names has failed for this request") from error


def _name_of_tenant(value: Any) -> str:
    """Raises TypeError for other objects: their text may differ between processes."""
    if value is None:
        return ""
    if not isinstance(value, str | int | UUID):
        raise TypeError(f"it must return a string, a number or None, not a {type(value).__name__}")
    return str(value)[:255]


@lru_cache(maxsize=32)
def _log_once(path: str, failure: str) -> None:
    """Log a failure once, not with each poll."""
    logger.error("The function %r of REQUEST_BROKER['TENANT'] has failed: %s", path, failure)


@lru_cache(maxsize=8)
def _tenant_function(path: str) -> Any:
    return import_string(path)


def _is_of_this_site(request: HttpRequest, dispatch: Dispatch) -> bool:
    """Code that dispatches may leave the host empty."""
    try:
        return (not dispatch.host or dispatch.host == host_of(request)) and dispatch.tenant == tenant_of(request)
    except TenantUnknownError:
        return False


# Claims


def set_claim(request: HttpRequest, response: HttpResponseBase, dispatch: Dispatch, here: str) -> None:
    """Set the cookie that identifies the request's browser at the URLs of its dispatch; `here` is the first of them."""
    if is_known_by_session(request, dispatch):
        return
    response.cookies[CLAIM] = next(_claims(dispatch.id))
    options: dict[str, Any] = {
        "path": f"/{here.split('/', 3)[3]}",
        "max-age": int(conf.TOKEN_MAX_AGE),
        "secure": request.is_secure() or settings.SESSION_COOKIE_SECURE,
        "httponly": True,
        "samesite": settings.SESSION_COOKIE_SAMESITE or "",
    }
    response.cookies[CLAIM].update(options)  # `set_cookie` would also add `expires`, for browsers of 2010


def claims(request: HttpRequest, dispatch: Dispatch) -> bool:
    """Whether a request has the claim cookie of this dispatch."""
    shown = request.COOKIES.get(CLAIM)
    return shown is not None and any(constant_time_compare(shown, claim) for claim in _claims(dispatch.id))


def _claims(dispatch_id: UUID) -> Iterator[str]:
    """Yields the claim for the current key, then for the fallback keys."""
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        yield credentials.mac("request_broker.claim", dispatch_id.hex, key)
