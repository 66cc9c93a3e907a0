"""Whose a dispatch is, and who gets the cookies of its response: the two rules that SECURITY.md states.

They hold at every exit: status, response, events, cancel, and what a repeated Idempotency-Key gets.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http.request import split_domain_port
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.module_loading import import_string

from broker_core.errors import TenantUnknownError
from broker_core.redaction import redacted
from broker_django import rest, users
from broker_django.conf import conf
from broker_django.context import KEY_LENGTH, class_path, user_key
from broker_django.freezing import NotFrozenError, freeze
from broker_django.sessions import LOGGED_IN, session_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_django.models import DispatchRecord

logger = logging.getLogger("broker_django.ownership")

CLAIM = "request_broker_claim"
"""The name of the cookie by which a browser is known that was nobody when its request was accepted."""

COOKIE = "cookie:"
"""What begins the name of a credential that is a cookie."""
SESSION = "session"
"""The session cookie, among the kinds of credentials; header fields are there by their names in lower case."""


def owns(request: HttpRequest, record: DispatchRecord) -> bool:
    """Whether the dispatch belongs to who asks.

    A dispatch of a user belongs to that user, active now: whoever is logged in as such, or shows again all that the
    request was sent with, unless that is somebody else by now. Any other belongs to the browser that has its claim, and
    to whoever shows again all that the request was sent with, be it nothing.
    """
    if not _is_of_this_site(request, record):
        return False
    if not record.user:
        return claims(request, record) or shows_again(request, record.credential)
    named = names_user(request, record.user)  # Django empties a session that it does not take for its user's any more
    asks = owner_of(getattr(request, "user", None))
    if asks == record.user:
        return users.is_active(request.user)
    unnamed = asks is None and not named and record.credential
    if unnamed and shows_again(request, record.credential) and users.may_act(record.user):
        return True
    return any(owner_of(user) == record.user and users.is_active(user) for user in rest.authenticated(request, record))


def owner_of(user: Any) -> str | None:
    """How the ledger names a user: by its key, and one that has none by a digest of its name, or of all that it is.

    None where there is no user, or an anonymous one.
    """
    key = user_key(user)
    if key is not None or not getattr(user, "is_authenticated", False):
        return key
    digest = salted_hmac("request_broker.owner", _known_by(user), algorithm="sha256").hexdigest()
    return f"{class_path(user)}:{digest}"[-KEY_LENGTH:]


def _known_by(user: Any) -> str:
    name = getattr(user, "get_username", str)()
    if name:
        return str(name)
    try:
        return json.dumps(freeze(user), sort_keys=True)
    except NotFrozenError:
        return str(user)


def may_have_cookies(request: HttpRequest, record: DispatchRecord) -> bool:
    """Whether the cookies of the response are for who asks: the browser that the request came from, and no other.

    It is known by the session cookie that it sent, or by its claim. Another login of the same user is another browser.
    """
    return claims(request, record) or (SESSION in _kinds(record.credential) and shows_again(request, record.credential))


def without_cookies(response: HttpResponseBase) -> None:
    """Take out what a view has set by `set_cookie`, what it has set as a header field, and what would empty the jar."""
    response.cookies = SimpleCookie()
    for name in ("Set-Cookie", "Clear-Site-Data"):
        response.headers.pop(name, None)


def is_known_by_session(record: DispatchRecord) -> bool:
    """Whether the browser of a user is known without a claim."""
    return bool(record.user) and SESSION in _kinds(record.credential)


# The site


def host_of(request: HttpRequest) -> str:
    """The host that the request was sent to, without its port, as cookies go; empty if it is none of this site's."""
    try:
        return split_domain_port(request.get_host())[0][:255]
    except DisallowedHost:
        return ""


def tenant_of(request: HttpRequest) -> str:
    """What the function says that the setting TENANT names; empty if there is none.

    Raises TenantUnknownError if the function fails.
    """
    if not conf.TENANT:
        return ""
    try:
        return str(_tenant_function(conf.TENANT)(request) or "")[:255]
    except Exception as error:
        _log_once(conf.TENANT, redacted(error))
        raise TenantUnknownError("the function that TENANT names has failed for this request") from error


@lru_cache(maxsize=32)
def _log_once(path: str, failure: str) -> None:
    """Whoever polls would have it logged with each poll."""
    logger.error("The function %r of REQUEST_BROKER['TENANT'] has failed: %s", path, failure)


@lru_cache(maxsize=8)
def _tenant_function(path: str) -> Any:
    return import_string(path)


def _is_of_this_site(request: HttpRequest, record: DispatchRecord) -> bool:
    """Code that dispatches may leave the host to be chosen."""
    try:
        return (not record.host or record.host == host_of(request)) and record.tenant == tenant_of(request)
    except TenantUnknownError:
        return False


# Credentials


def credential_of(request: HttpRequest, extra: SimpleCookie | None = None) -> str:
    """The kinds of credentials that a request has, and a digest of all of them together; empty if it has none.

    `extra` are cookies that the client is about to get.
    """
    presented = _presented(request, extra)
    kinds = sorted(presented)
    return f"{'+'.join(kinds)}:{_digest(presented, kinds, settings.SECRET_KEY)}" if kinds else ""


def names_user(request: HttpRequest, user: str) -> bool:
    """Whether it is the session of the request that says who its user is."""
    session = session_of(request)
    return session is not None and session.get(LOGGED_IN) == user


def shows_again(request: HttpRequest, credential: str) -> bool:
    """Whether a request has all that this credential was made of, which may be nothing; it may have more."""
    if not credential:
        return True
    presented, kinds = _presented(request), _kinds(credential)
    if not presented.keys() >= set(kinds):
        return False
    digest = credential.rpartition(":")[2]
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return any(constant_time_compare(digest, _digest(presented, kinds, key)) for key in keys)


def _kinds(credential: str) -> list[str]:
    kinds = credential.rpartition(":")[0]
    return kinds.split("+") if kinds else []


def _presented(request: HttpRequest, extra: SimpleCookie | None = None) -> dict[str, str]:
    """By kind: the session cookie, and the header fields and cookies of CREDENTIALS."""
    name = settings.SESSION_COOKIE_NAME
    session = extra[name].value if extra and name in extra else request.COOKIES.get(name)
    others = (_credential(request, name) for name in conf.CREDENTIALS)
    return {kind: value for kind, value in (*others, (SESSION, session)) if value}


def _credential(request: HttpRequest, name: str) -> tuple[str, str | None]:
    """The kind of a credential, and its value; None if the request has none."""
    if name.startswith(COOKIE):
        return name, request.COOKIES.get(name.removeprefix(COOKIE))
    return name.lower(), request.headers.get(name)


def _digest(presented: dict[str, str], kinds: list[str], key: str | bytes) -> str:
    value = json.dumps([[kind, presented[kind]] for kind in kinds])
    return salted_hmac("request_broker.credential", value, secret=key, algorithm="sha256").hexdigest()


# Claims


def give_claim(request: HttpRequest, response: HttpResponseBase, record: DispatchRecord, here: str) -> None:
    """Let the browser that sent the request be known at the URLs of its dispatch, of which `here` is the first."""
    if is_known_by_session(record):
        return
    response.set_cookie(
        CLAIM,
        next(_claims(record.pk)),
        max_age=int(conf.TOKEN_MAX_AGE),
        path=urlsplit(here).path,
        secure=request.is_secure() or settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite=settings.SESSION_COOKIE_SAMESITE,
    )


def claims(request: HttpRequest, record: DispatchRecord) -> bool:
    """Whether a request has the claim of this dispatch."""
    shown = request.COOKIES.get(CLAIM)
    return shown is not None and any(constant_time_compare(shown, claim) for claim in _claims(record.pk))


def _claims(dispatch_id: UUID) -> Iterator[str]:
    """The claim by the key that is in use, and then by the fallbacks."""
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        yield salted_hmac("request_broker.claim", dispatch_id.hex, secret=key, algorithm="sha256").hexdigest()
