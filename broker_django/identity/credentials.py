"""Credentials that a request shows, and what the ledger stores about them: their kinds, and digests of their values.

A credential is the session cookie, or a header field, cookie or query parameter named in CREDENTIALS. Header fields and
parameters with names like those of credentials are guessed.
"""

from __future__ import annotations

import copy
import json
import secrets
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import TooManyFieldsSent
from django.http.request import HttpHeaders
from django.utils.crypto import constant_time_compare
from django.utils.encoding import force_bytes, force_str

from broker_core.http.credential_names import (
    identifies_user,
    is_renewed,
    is_secret_parameter,
    looks_like_credential,
    may_identify,
)
from broker_django.conf import conf
from broker_django.identity.logged_in import LOGGED_IN, session_of
from broker_django.identity.owners import is_unidentified

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from http.cookies import SimpleCookie

    from django.http import HttpRequest

COOKIE, QUERY = "cookie:", "query:"
"""Prefixes for the names of credentials that are cookies or query parameters."""
SESSION = "session"
"""The kind of the session cookie. The kind of a header field is its name in lower case."""
OURS = "request_broker_"
"""Prefix of the broker's own cookies."""
GUESSED = "?"
"""Prefix of the kinds of guessed credentials. The claim can replace them, and the session."""
EXEMPT = "-"
"""Prefix, in CREDENTIALS, for names that must not be guessed."""
TOO_MANY = f"{GUESSED}*"
"""Stands for more credentials than the ledger can store. No request can show it, so only the claim remains."""

MOST_OF_NAMES = 800
"""Characters. A dispatch has room for the kinds of its credentials and three digests."""

_OF_SERVERS = ("REMOTE_USER", "SSL_CLIENT_S_DN", "SSL_CLIENT_CERT")
"""Variables that a web server sets for an authenticated client (RFC 3875, section 4.1.11; mod_ssl)."""

Presented = dict[str, str]
"""Maps kinds to the values that a request shows."""


def presented(request: HttpRequest, extra: SimpleCookie | None = None, *, everything: bool = False) -> Presented:
    """Returns the credentials that the request shows. `extra` contains cookies that the client is about to receive.

    With `everything`, header fields and cookies that might identify the sender count too, because it is not known how a
    view finds its user.
    """
    name = settings.SESSION_COOKIE_NAME
    session = extra[name].value if extra and name in extra else request.COOKIES.get(name)
    named, parameters = _named(tuple(conf.CREDENTIALS)), _parameters(request)
    shown: dict[str, Any] = {kind: request.META.get(key) for kind, key in named.fields.items()}
    shown |= {kind: request.COOKIES.get(cookie) for kind, cookie in named.cookies.items()}
    shown |= {kind: parameters.get(parameter) for kind, parameter in named.parameters.items()}
    shown |= {f"{GUESSED}{kind}": value for kind, value in _guessed(request, parameters, named, everything).items()}
    shown[SESSION] = session
    return {kind: force_str(value, errors="replace") for kind, value in shown.items() if value}


def _guessed(request: HttpRequest, parameters: Mapping[str, str], named: _Named, everything: bool) -> dict[str, Any]:  # noqa: FBT001 - private
    """Returns credentials that CREDENTIALS does not name."""
    fields = ((_guessed_field(key, everything), value) for key, value in request.META.items())
    guessed = {field: value for field, value in fields if field and field not in named.known}
    if any(map(identifies_user, guessed)):
        guessed = {field: value for field, value in guessed.items() if not is_renewed(field) or identifies_user(field)}
    for name, value in request.COOKIES.items():
        kind = f"{COOKIE}{name}"
        if kind not in named.known and _is_guessed_cookie(name, everything):
            guessed[kind] = value
    for name, value in parameters.items():
        kind = f"{QUERY}{name}"
        if kind not in named.known and is_secret_parameter(name):
            guessed[kind] = value
    return guessed


@lru_cache(maxsize=1024)
def _guessed_field(key: str, everything: bool) -> str:  # noqa: FBT001 - private, and cached by position
    """Returns the header field's name for a key of `request.META`, if it is guessed to be a credential; otherwise an
    empty text.
    """
    field = _field(key)
    if key in _OF_SERVERS:
        return field
    is_one = key.startswith("HTTP_") and (may_identify if everything else looks_like_credential)(field)
    return field if is_one else ""


def _is_guessed_cookie(name: str, everything: bool) -> bool:  # noqa: FBT001 - private
    """Whether a cookie may identify the sender. Django's and the broker's cookies do not identify users, or are handled
    elsewhere. Names of analytics cookies begin with an underscore.
    """
    own = (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME, settings.LANGUAGE_COOKIE_NAME, "messages")
    if name in own or name.startswith(OURS):
        return False
    return looks_like_credential(name.lower()) or (everything and not name.startswith("_"))


def _parameters(request: HttpRequest) -> Mapping[str, str]:
    """Returns the query parameters; none if Django cannot parse them, because then a view may never read them."""
    if not request.META.get("QUERY_STRING"):
        return {}
    try:
        return {name: request.GET[name] for name in request.GET}
    except (TooManyFieldsSent, LookupError, UnicodeError):  # the client chooses the charset
        return {}


class _Named:
    """The setting CREDENTIALS: maps kinds to keys of `request.META`, cookies and query parameters."""

    def __init__(self, entered: tuple[str, ...]) -> None:
        exempt = {name.removeprefix(EXEMPT).lower() for name in entered if name.startswith(EXEMPT)}
        names = [name for name in entered if not name.startswith(EXEMPT)]
        self.cookies = {name: name.removeprefix(COOKIE) for name in names if name.startswith(COOKIE)}
        self.parameters = {name: name.removeprefix(QUERY) for name in names if name.startswith(QUERY)}
        fields = [name for name in names if name not in self.cookies and name not in self.parameters]
        self.fields = {name.lower(): HttpHeaders.to_wsgi_name(name) for name in fields}
        csrf = _field(settings.CSRF_HEADER_NAME)
        self.known = frozenset({*self.fields, *self.cookies, *self.parameters, *exempt, csrf})


_named = lru_cache(maxsize=8)(_Named)


@lru_cache(maxsize=1024)
def _field(key: str) -> str:
    return key.removeprefix("HTTP_").replace("_", "-").lower()


def shows_anything(request: HttpRequest) -> bool:
    """Whether the request has anything that a view may identify its sender by."""
    return bool(presented(request, everything=True))


def credential_for(
    request: HttpRequest,
    owner: str | None,
    extra: SimpleCookie | None = None,
    by_named: Callable[[], bool] = lambda: False,
) -> str:
    """Returns the credential that must be shown again: what identified the user, or without a user all that was sent.

    `by_named` is called only if needed. It returns whether the credentials in CREDENTIALS suffice for the view to find
    its user, a row of the project's user model. Users of other kinds must be found by the view again, because only the
    view knows whether they are active.
    """
    if owner is None or is_unidentified(owner):
        return described(presented(request, extra, everything=owner is not None))
    shown = presented(request, extra)
    if names_user(request, owner):
        return described({SESSION: shown.get(SESSION, "")})
    named = {kind: value for kind, value in shown.items() if _part(kind) == NAMED}
    return described(named) if named and by_named() else ""


def shows_more_than_named(request: HttpRequest) -> bool:
    """Whether something that CREDENTIALS does not name may identify the sender."""
    return any(_part(kind) != NAMED for kind in presented(request, everything=True)) or bool(_parameters(request))


def with_named_alone(request: HttpRequest) -> HttpRequest:
    """Returns a copy of the request that is identified only by CREDENTIALS: without session, other cookies, query and
    body.
    """
    named = _named(tuple(conf.CREDENTIALS))
    bare = _without(request, lambda kind: kind not in named.known and (kind.startswith(COOKIE) or may_identify(kind)))
    query = request.GET.copy()
    for name in [name for name in request.GET if f"{QUERY}{name}" not in named.known]:
        del query[name]
    bare.GET = query  # type: ignore[assignment]
    bare.META["CONTENT_LENGTH"] = "0"
    bare.user = None  # type: ignore[assignment] # REST framework reads the session's user
    return bare


def without_named(request: HttpRequest) -> HttpRequest:
    """Returns a copy of the request without the credentials in CREDENTIALS."""
    named = _named(tuple(conf.CREDENTIALS))
    return _without(request, lambda kind: kind in named.known)


def _without(request: HttpRequest, left_out: Callable[[str], bool]) -> HttpRequest:
    """Returns a copy of the request without its session, and without these kinds of header fields and cookies."""
    bare = copy.copy(request)
    gone = {key for key in request.META if (key.startswith("HTTP_") or key in _OF_SERVERS) and left_out(_field(key))}
    bare.META = {key: value for key, value in request.META.items() if key not in gone}
    bare.COOKIES = {name: value for name, value in request.COOKIES.items() if not left_out(f"{COOKIE}{name}")}
    for name in ("headers", "environ", "session"):
        bare.__dict__.pop(name, None)
    bare._dont_enforce_csrf_checks = True  # type: ignore[attr-defined] # no view runs
    return bare


def client_of(request: HttpRequest, *, everything: bool = False) -> str:
    """Returns everything that a client without a user sent, as one text. Only its digest may be stored."""
    return json.dumps(sorted(presented(request, everything=everything).items()))


def names_user(request: HttpRequest, user: str) -> bool:
    """Whether the request's session names this user."""
    session = session_of(request)
    return session is not None and session.get(LOGGED_IN) == user


# What the ledger keeps

NAMED, OF_SESSION, GUESSES = range(3)


def described(shown: Presented) -> str:
    """Returns the kinds of credentials, and digests of the named ones, of the session, and of the guessed ones."""
    if not shown:
        return ""
    values = sorted(shown.items())
    if any(" " in kind for kind in shown) or sum(len(kind) + 1 for kind in shown) > MOST_OF_NAMES:
        values = [
            *((kind, value) for kind, value in values if _part(kind) != GUESSES),
            (TOO_MANY, secrets.token_hex(16)),
        ]
    parts = ([each for each in values if _part(each[0]) == part] for part in range(3))
    digests = (_digest(part, settings.SECRET_KEY) if part else "" for part in parts)
    return f"{' '.join(kind for kind, _value in values)}:{'.'.join(digests)}"


def _part(kind: str) -> int:
    if kind == SESSION:
        return OF_SESSION
    return GUESSES if kind.startswith(GUESSED) else NAMED


def kinds(credential: str) -> list[str]:
    names = credential.rpartition(":")[0]
    return names.split(" ") if names else []


def shows_again(request: HttpRequest, credential: str) -> bool:
    """Whether a request shows everything in this credential, which may be empty. It may show more."""
    return all(_shows(request, credential, part) for part in range(3))


def shows_named(request: HttpRequest, credential: str) -> bool:
    """The same, only for credentials in CREDENTIALS, which the claim cannot replace."""
    return _shows(request, credential, NAMED)


def shows_session(request: HttpRequest, credential: str) -> bool:
    return _shows(request, credential, OF_SESSION)


def _shows(request: HttpRequest, credential: str, part: int) -> bool:
    digests = credential.rpartition(":")[2].split(".")
    digest = digests[part] if part < len(digests) else ""
    if not digest:
        return True
    shown = presented(request, everything=part == GUESSES)
    values = [(kind, shown.get(kind, "")) for kind in kinds(credential) if _part(kind) == part]
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return any(constant_time_compare(digest, _digest(values, key)) for key in keys)


def _digest(values: list[tuple[str, str]], key: str | bytes) -> str:
    return mac("request_broker.credential", json.dumps(values), key)


def mac(salt: str, value: str, key: str | bytes) -> str:
    """Returns an authentication code of 128 bits in hexadecimal digits: keyed BLAKE2b (RFC 7693, section 2.9)."""
    return blake2b(value.encode(), key=_derived(salt, key), digest_size=16).hexdigest()


@lru_cache(maxsize=16)
def _derived(salt: str, key: str | bytes) -> bytes:
    """Derives a separate key for each salt, as Django's `salted_hmac` does."""
    return sha256(salt.encode() + force_bytes(key)).digest()
