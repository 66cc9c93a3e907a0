"""What a request shows of who sent it, and what the ledger keeps of that: kinds of credentials, and digests of them.

A credential is the session cookie, and the header fields, cookies and query parameters that the setting CREDENTIALS
names. Header fields and parameters whose names look like those of credentials are guessed at.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from hashlib import blake2b, sha256
from io import BytesIO
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import TooManyFieldsSent
from django.core.handlers.wsgi import WSGIRequest
from django.http.request import HttpHeaders
from django.utils.crypto import constant_time_compare
from django.utils.encoding import force_bytes

from broker_django.conf import conf
from broker_django.identity.logged_in import LOGGED_IN, session_of
from broker_django.identity.owners import is_untold

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.cookies import SimpleCookie

    from django.http import HttpRequest

COOKIE, QUERY = "cookie:", "query:"
"""What begins the name of a credential that is a cookie, or a parameter of the query."""
SESSION = "session"
"""The session cookie, among the kinds of credentials; header fields are there by their names in lower case."""
GUESSED = "?"
"""What begins the name of a credential that nobody has named: the claim may stand for it, as for the session."""

MOST_OF_NAMES = 140
"""Characters: a dispatch has room for the kinds of its credentials, and three digests."""

_LOOKS_LIKE_ONE = re.compile(
    r"(?:.*[_-])?(?:(?:proxy|http|www)?auth(?:orization|entication)?|token|jwt|assertion|secret|password|credentials?"
    r"|session(?:[_-]?id)?|api[_-]?key|apikey|key"
    r"|user(?:-?(?:id|name|login|email))?|e?mail|login|identity|principal(?:-(?:id|name))?|oidc-[a-z]+|consumer-[a-z-]+"
    r"|client-(?:cert|dn|s-dn))"
)
"""What clients send, and who proxies say that they are."""
_OF_SERVERS = frozenset({"REMOTE_USER", "SSL_CLIENT_S_DN", "SSL_CLIENT_CERT"})
"""What a server says of who it has authenticated (RFC 3875, section 4.1.11; mod_ssl)."""
_SECRETS = re.compile(r"(?:[\w-]*[_-])?(?:token|jwt|secret|password|api[_-]?key|apikey|access[_-]?key)")
_IS_NONE = re.compile(r".*(?:csrf|xsrf|captcha|turnstile|idempotency|websocket|cache|surrogate|public[_-]key).*")
_OF_ANYBODY = re.compile(
    r"(?:accept|access-control|cache-control|cf|connection|content|dnt|expect|forwarded|from|host|idempotency-key|if"
    r"|keep-alive|max-forwards|origin|pragma|prefer|priority|range|referer|save-data|sec|te|trailer|transfer-encoding"
    r"|upgrade|user-agent|via|warning|x-amzn?|x-b3|x-client-ip|x-cloud-trace|x-correlation-id|x-envoy|x-forwarded"
    r"|x-real-ip|x-request|x-requested-with|traceparent|tracestate|sentry-trace|baggage|cookie)(?:-.*)?"
)
"""Header fields that say nothing of who sends them (RFC 9110; Fetch; what proxies and tracing add)."""

Presented = dict[str, str]
"""By kind, what a request shows."""


def presented(request: HttpRequest, extra: SimpleCookie | None = None, *, everything: bool = False) -> Presented:
    """What the request shows. `extra` are cookies that the client is about to get.

    With `everything`, any header field counts that may say who sends it: nobody knows how a view finds its user.
    """
    name = settings.SESSION_COOKIE_NAME
    session = extra[name].value if extra and name in extra else request.COOKIES.get(name)
    named = _named(tuple(conf.CREDENTIALS))
    shown = {kind: request.META.get(key) for kind, key in named.fields.items()}
    shown |= {kind: request.COOKIES.get(cookie) for kind, cookie in named.cookies.items()}
    is_guessed = _may_say_who if everything else _looks_like_one
    shown |= {f"{GUESSED}{_field(key)}": request.META[key] for key in request.META if is_guessed(key, named.keys)}
    for name, value in _parameters(request).items():
        if f"{QUERY}{name}" in named.parameters:
            shown[f"{QUERY}{name}"] = value
        elif _is_secret(name):
            shown[f"{GUESSED}{QUERY}{name}"] = value
    return {kind: value for kind, value in (*shown.items(), (SESSION, session)) if value}


def _parameters(request: HttpRequest) -> dict[str, str]:
    """Those of the query; none if they are more than Django reads, which a view may never ask for."""
    if not request.META.get("QUERY_STRING"):
        return {}
    try:
        return request.GET.dict()
    except TooManyFieldsSent:
        return {}


class _Named:
    """The setting CREDENTIALS: by kind, the keys of header fields in `request.META`, cookies and query parameters."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.cookies = {name: name.removeprefix(COOKIE) for name in names if name.startswith(COOKIE)}
        self.parameters = {name: name.removeprefix(QUERY) for name in names if name.startswith(QUERY)}
        fields = [name for name in names if name not in self.cookies and name not in self.parameters]
        self.fields = {name.lower(): HttpHeaders.to_wsgi_name(name) for name in fields}
        self.keys = frozenset(self.fields.values())


_named = lru_cache(maxsize=8)(_Named)


@lru_cache(maxsize=1024)
def _field(key: str) -> str:
    return key.removeprefix("HTTP_").replace("_", "-").lower()


@lru_cache(maxsize=1024)
def _looks_like_one(key: str, named: frozenset[str]) -> bool:
    if key in _OF_SERVERS:
        return True
    if not key.startswith("HTTP_") or key in named or key == settings.CSRF_HEADER_NAME:
        return False
    return _LOOKS_LIKE_ONE.fullmatch(_field(key)) is not None and _IS_NONE.fullmatch(_field(key)) is None


@lru_cache(maxsize=1024)
def _is_secret(parameter: str) -> bool:
    """Whether a parameter of the query looks like a credential; a `key` or a `session` may be of anything."""
    name = parameter.lower()
    return _SECRETS.fullmatch(name) is not None and _IS_NONE.fullmatch(name) is None


@lru_cache(maxsize=1024)
def _may_say_who(key: str, named: frozenset[str]) -> bool:
    if _looks_like_one(key, named):
        return True
    if not key.startswith("HTTP_") or key in named or key == settings.CSRF_HEADER_NAME:
        return False
    return _OF_ANYBODY.fullmatch(_field(key)) is None and _IS_NONE.fullmatch(_field(key)) is None


def shows_anything(request: HttpRequest) -> bool:
    """Whether there is anything by which a view may know who sends the request."""
    return bool(request.COOKIES or presented(request, everything=True))


def credential_of(request: HttpRequest, extra: SimpleCookie | None = None) -> str:
    """What the ledger keeps of what a request shows; empty if it shows nothing."""
    return described(presented(request, extra))


def credential_for(
    request: HttpRequest,
    owner: str | None,
    extra: SimpleCookie | None = None,
    by_fields: Callable[[], bool] = lambda: False,
) -> str:
    """What has to be shown again: what says who the user is, or, without a user, all that was sent.

    `by_fields` is asked only if it matters: whether what CREDENTIALS names is enough for a view to find its user, a row
    of the project's user model. A user of any other kind has to be found again by the view: only that knows who is
    active.
    """
    if owner is None or is_untold(owner):
        return described(presented(request, extra, everything=owner is not None))
    shown = presented(request, extra)
    if names_user(request, owner):
        return described({SESSION: shown.get(SESSION, "")})
    fields = {kind: value for kind, value in shown.items() if kind != SESSION and not kind.startswith(GUESSED)}
    return described(fields) if fields and by_fields() else ""


def with_these_alone(request: HttpRequest) -> HttpRequest:
    """A request for the same view that has nothing but what CREDENTIALS names: no session, no user, no body."""
    named = _named(tuple(conf.CREDENTIALS))
    kept = {key: request.META[key] for key in (*_OF_ANY_REQUEST, *named.keys) if key in request.META}
    query = {name: value for name, value in _parameters(request).items() if f"{QUERY}{name}" in named.parameters}
    alone = WSGIRequest({**kept, "QUERY_STRING": "", "CONTENT_LENGTH": "0", "wsgi.input": BytesIO()})
    alone.GET = request.GET.__class__(mutable=True)
    alone.GET.update(query)
    cookies = named.cookies.values()
    alone.COOKIES = {name: value for name, value in request.COOKIES.items() if name in cookies}
    alone.resolver_match = request.resolver_match
    alone._dont_enforce_csrf_checks = True  # type: ignore[attr-defined] # nothing is done
    return alone


_OF_ANY_REQUEST = (
    *("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "HTTP_HOST"),
    *("wsgi.url_scheme", "wsgi.multithread", "wsgi.multiprocess", "wsgi.errors"),
)


def client_of(request: HttpRequest, *, everything: bool = False) -> str:
    """All that a client without a user sent, as one text: of which only a digest may be kept."""
    return json.dumps(sorted(presented(request, everything=everything).items()))


def names_user(request: HttpRequest, user: str) -> bool:
    """Whether it is the session of the request that says who its user is."""
    session = session_of(request)
    return session is not None and session.get(LOGGED_IN) == user


# What the ledger keeps


def described(shown: Presented) -> str:
    """The kinds of what was shown, and digests: of what was named, of the session, and of what was guessed."""
    if not shown:
        return ""
    values = sorted(shown.items())
    while values[0][0].startswith(GUESSED) and sum(len(kind) + 1 for kind, _value in values) > MOST_OF_NAMES:
        del values[0]
    parts = ([each for each in values if _part(each[0]) == part] for part in range(3))
    digests = (_digest(part, settings.SECRET_KEY) if part else "" for part in parts)
    return f"{'+'.join(kind for kind, _value in values)}:{'.'.join(digests)}"


def _part(kind: str) -> int:
    return 1 if kind == SESSION else 2 if kind.startswith(GUESSED) else 0


def kinds(credential: str) -> list[str]:
    names = credential.rpartition(":")[0]
    return names.split("+") if names else []


def shows_again(request: HttpRequest, credential: str) -> bool:
    """Whether a request has all that this credential was made of, which may be nothing; it may have more."""
    return all(_shows(request, credential, part) for part in range(3))


def shows_named(request: HttpRequest, credential: str) -> bool:
    """The same of what CREDENTIALS names, for which nothing stands."""
    return _shows(request, credential, 0)


def shows_session(request: HttpRequest, credential: str) -> bool:
    return _shows(request, credential, 1)


def _shows(request: HttpRequest, credential: str, part: int) -> bool:
    digests = credential.rpartition(":")[2].split(".")
    digest = digests[part] if part < len(digests) else ""
    if not digest:
        return True
    shown = presented(request, everything=part == 2)
    values = [(kind, shown.get(kind, "")) for kind in kinds(credential) if _part(kind) == part]
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return any(constant_time_compare(digest, _digest(values, key)) for key in keys)


def _digest(values: list[tuple[str, str]], key: str | bytes) -> str:
    return mac("request_broker.credential", json.dumps(values), key)


def mac(salt: str, value: str, key: str | bytes) -> str:
    """A message authentication code of 128 bits, in hexadecimal digits: keyed BLAKE2b (RFC 7693, section 2.9)."""
    return blake2b(value.encode(), key=_derived(salt, key), digest_size=16).hexdigest()


@lru_cache(maxsize=16)
def _derived(salt: str, key: str | bytes) -> bytes:
    """A key of its own for each salt, as Django's `salted_hmac` derives it."""
    return sha256(salt.encode() + force_bytes(key)).digest()
