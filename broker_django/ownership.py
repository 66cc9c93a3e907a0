"""Whose a dispatch is, and who gets the cookies of its response: the two rules that SECURITY.md states.

They hold at every exit: status, response, events, cancel, and what a repeated Idempotency-Key gets.
"""

from __future__ import annotations

import copy
import hmac
import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http.request import HttpHeaders, split_domain_port
from django.utils.crypto import constant_time_compare
from django.utils.encoding import force_bytes
from django.utils.module_loading import import_string

from broker_core.errors import TenantUnknownError
from broker_core.redaction import redacted
from broker_django import rest, users
from broker_django.conf import conf
from broker_django.context import KEY_LENGTH, class_path, user_key
from broker_django.freezing import NotFrozenError, freeze
from broker_django.sessions import LOGGED_IN, session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from broker_django.models import DispatchRecord
    from broker_django.rest import Found

logger = logging.getLogger("broker_django.ownership")

CLAIM = "request_broker_claim"
"""The name of the cookie by which a browser is known that was nobody when its request was accepted."""

COOKIE = "cookie:"
"""What begins the name of a credential that is a cookie."""
DIGEST_LENGTH = 32
"""Hexadecimal digits: 128 bits."""
LONGEST_PATH = 150
"""Characters of the name of a class, from its end, beside a digest."""

USERNAME = "get_username"
IDENTIFIERS = (USERNAME, "id", "sub", "user_id", "username")
"""What tells users of one class apart who have no key, the first that says anything; and `iss`, who issued it."""
CLAIMS = ("claims", "payload", "token")
"""The attributes in which a user may have the claims of its token (RFC 7519, section 4.1)."""

SESSION = "session"
"""The session cookie, among the kinds of credentials; header fields are there by their names in lower case."""


def owns(request: HttpRequest, record: DispatchRecord) -> bool:
    """Whether the dispatch belongs to who asks.

    A dispatch of a user belongs to that user, active now: whoever is logged in as such, shows again the session that
    the request was sent with, unless that is somebody else's by now, or is found by the authenticators of REST
    framework. Any other belongs to whoever shows again all that the request was sent with, be it nothing; the claim
    stands for the session.
    """
    if not _is_of_this_site(request, record):
        return False
    if not record.user:
        return _shows_fields(request, record.credential) and (
            _shows_session(request, record.credential) or claims(request, record)
        )
    may_show = bool(record.credential) and shows_again(request, record.credential) and users.may_act(record.user)
    if may_show and names_user(request, record.user):
        return True  # Django would empty a session whose user has a new password, and its browser asks for the answer
    asks = owner_of(getattr(request, "user", None))
    if asks == record.user:
        return users.is_active(request.user)
    if asks is None and may_show:
        return True
    return any(
        owner_of(found.user, found.auth) == record.user and _is_active(found)
        for found in rest.authenticated(request, record)
    )


def _is_active(found: Found) -> bool:
    """Whether the user is active. A credential without a user is, for the authenticator has accepted it."""
    return not getattr(found.user, "is_authenticated", False) or users.is_active(found.user)


def owner_of(user: Any, auth: Any = None) -> str | None:
    """How the ledger names a user: by its key, and one that has none by a digest of what it is known by.

    If there is no user, or an anonymous one, what authenticated the request stands for it: an API key has no user. None
    if there is neither, or nothing that tells it from others.
    """
    who = user if getattr(user, "is_authenticated", False) else auth
    if who is None:
        return None
    key = user_key(user)
    if key is None and who is auth and getattr(auth, "pk", None) is not None:
        key = f"{class_path(auth)}:{auth.pk}"
    if key is not None and len(key) <= KEY_LENGTH:
        return key
    known = key or _known_by(who)
    return known and f"{class_path(who)[-LONGEST_PATH:]}{users.DIGEST}{sha256(known.encode()).hexdigest()}"


def _known_by(who: Any) -> str | None:
    """The name or the identifier of a user without a key; without these, all of its attributes."""
    known = [f"{name}={value}" for name, value in ((name, _identifier(who, name)) for name in IDENTIFIERS) if value]
    if known:
        return " ".join([*known[:1], f"iss={_identifier(who, 'iss')}"])
    try:
        return json.dumps(freeze(who), sort_keys=True)
    except NotFrozenError as error:
        logger.info("A %s has no name, and is not told from others: %s", type(who).__name__, error)
        return None


def _identifier(who: Any, name: str) -> str:
    """What a user, or the claims of its token, say; empty if they do not say it."""
    for holder in (who, *(_attribute(who, claims) for claims in CLAIMS)):
        value = holder.get(name) if isinstance(holder, Mapping) else _attribute(holder, name)
        if isinstance(value, str | int | UUID) and str(value):
            return str(value)
    return ""


def _attribute(holder: Any, name: str) -> Any:
    try:
        value = getattr(holder, name, None)
        return value() if name == USERNAME and callable(value) else value
    except Exception:  # noqa: BLE001 - of the project's own code
        return None


def may_have_cookies(request: HttpRequest, record: DispatchRecord) -> bool:
    """Whether the cookies of the response are for who asks: the browser that the request came from, and no other.

    It is known by the session cookie that it sent, or by its claim. Another login of the same user is another browser.
    """
    known_by_session = SESSION in _kinds(record.credential) and _shows_session(request, record.credential)
    return known_by_session or claims(request, record)


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
        return _domain(request.get_host())
    except DisallowedHost:
        return ""


def host_in(url: str) -> str:
    """The same, of an absolute URL that was made for the request."""
    return _domain(url.split("/", 3)[2])


def _domain(host: str) -> str:
    return split_domain_port(host)[0][:255]


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
    """The kinds of credentials that a request has, and digests of them; empty if it has none.

    One digest is of all header fields and cookies together, one of the session. `extra` are cookies that the client is
    about to get.
    """
    return _described(_presented(request, extra))


def credential_for(
    request: HttpRequest,
    owner: str | None,
    extra: SimpleCookie | None = None,
    by_fields: Callable[[], bool] = lambda: False,
) -> str:
    """What has to be shown again: what says who the user is, or, without a user, all that was sent.

    `by_fields` is asked only if it matters: whether a view has found a row of the project's user model by the header
    fields and cookies of CREDENTIALS. A user of any other kind has to be found again by the view: only that knows who
    is active.
    """
    if owner is None:
        return credential_of(request, extra)
    presented = _presented(request, extra)
    if names_user(request, owner):
        return _described({SESSION: presented.get(SESSION, "")})
    fields = {kind: value for kind, value in presented.items() if kind != SESSION}
    return _described(fields) if fields and by_fields() else ""


def client_of(request: HttpRequest) -> str:
    """All that a client without a user sent, as one text: of which only a digest may be kept."""
    return json.dumps(sorted(_presented(request).items()))


def without_credentials(request: HttpRequest) -> HttpRequest:
    """The request as if it had none of the header fields and cookies of CREDENTIALS."""
    fields, cookies = _credentials(tuple(conf.CREDENTIALS))
    bare = copy.copy(request)
    bare.META = {name: value for name, value in request.META.items() if name not in fields.values()}
    bare.COOKIES = {name: value for name, value in request.COOKIES.items() if name not in cookies.values()}
    bare.__dict__.pop("headers", None)
    return bare


def names_user(request: HttpRequest, user: str) -> bool:
    """Whether it is the session of the request that says who its user is."""
    session = session_of(request)
    return session is not None and session.get(LOGGED_IN) == user


def shows_again(request: HttpRequest, credential: str) -> bool:
    """Whether a request has all that this credential was made of, which may be nothing; it may have more."""
    return _shows_fields(request, credential) and _shows_session(request, credential)


def _shows_fields(request: HttpRequest, credential: str) -> bool:
    presented = _presented(request)
    kinds = [kind for kind in _kinds(credential) if kind != SESSION]
    values = [(kind, presented.get(kind, "")) for kind in kinds]
    return _is_digest(_digests_in(credential)[0], values)


def _shows_session(request: HttpRequest, credential: str) -> bool:
    return _is_digest(_digests_in(credential)[1], [(SESSION, _presented(request).get(SESSION, ""))])


def _described(presented: dict[str, str]) -> str:
    values = sorted(presented.items())
    if not values:
        return ""
    fields, session = ([each for each in values if (each[0] == SESSION) is is_session] for is_session in (False, True))
    digests = (_digest(part, settings.SECRET_KEY) if part else "" for part in (fields, session))
    return f"{'+'.join(kind for kind, _value in values)}:{'.'.join(digests)}"


def _kinds(credential: str) -> list[str]:
    kinds = credential.rpartition(":")[0]
    return kinds.split("+") if kinds else []


def _digests_in(credential: str) -> tuple[str, str]:
    fields, _, session = credential.rpartition(":")[2].partition(".")
    return fields, session


def _presented(request: HttpRequest, extra: SimpleCookie | None = None) -> dict[str, str]:
    """By kind: the session cookie, and the header fields and cookies of CREDENTIALS."""
    name = settings.SESSION_COOKIE_NAME
    session = extra[name].value if extra and name in extra else request.COOKIES.get(name)
    fields, cookies = _credentials(tuple(conf.CREDENTIALS))
    shown = {kind: request.META.get(key) for kind, key in fields.items()}
    shown |= {kind: request.COOKIES.get(cookie) for kind, cookie in cookies.items()}
    return {kind: value for kind, value in (*shown.items(), (SESSION, session)) if value}


@lru_cache(maxsize=8)
def _credentials(names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """By kind: the key of each header field in `request.META`, and the name of each cookie."""
    cookies = {name: name.removeprefix(COOKIE) for name in names if name.startswith(COOKIE)}
    return {name.lower(): HttpHeaders.to_wsgi_name(name) for name in names if name not in cookies}, cookies


def _is_digest(digest: str, values: list[tuple[str, str]]) -> bool:
    """Whether this is the digest of these values; an empty one is of none, which anybody has."""
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return not digest or any(constant_time_compare(digest, _digest(values, key)) for key in keys)


def _digest(values: list[tuple[str, str]], key: str | bytes) -> str:
    return _mac("request_broker.credential", json.dumps(values), key)[:DIGEST_LENGTH]


def _mac(salt: str, value: str, key: str | bytes) -> str:
    """What Django's `salted_hmac` with SHA-256 gives, in hexadecimal digits."""
    return hmac.digest(_derived(salt, key), value.encode(), "sha256").hex()


@lru_cache(maxsize=16)
def _derived(salt: str, key: str | bytes) -> bytes:
    return sha256(salt.encode() + force_bytes(key)).digest()


# Claims


def give_claim(request: HttpRequest, response: HttpResponseBase, record: DispatchRecord, here: str) -> None:
    """Let the browser that sent the request be known at the URLs of its dispatch, of which `here` is the first."""
    if is_known_by_session(record):
        return
    response.set_cookie(
        CLAIM,
        next(_claims(record.pk)),
        path=f"/{here.split('/', 3)[3]}",
        secure=request.is_secure() or settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite=settings.SESSION_COOKIE_SAMESITE,
    )
    response.cookies[CLAIM]["max-age"] = int(conf.TOKEN_MAX_AGE)  # Django would say when that is, for browsers of 2010


def claims(request: HttpRequest, record: DispatchRecord) -> bool:
    """Whether a request has the claim of this dispatch."""
    shown = request.COOKIES.get(CLAIM)
    return shown is not None and any(constant_time_compare(shown, claim) for claim in _claims(record.pk))


def _claims(dispatch_id: UUID) -> Iterator[str]:
    """The claim by the key that is in use, and then by the fallbacks."""
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        yield _mac("request_broker.claim", dispatch_id.hex, key)
