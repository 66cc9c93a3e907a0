"""Which header fields, cookies and query parameters look like credentials, judged by their names in lower case.

This is a guess. A client that sends a credential must send it again to see its dispatch. So a name only counts as a
credential if clients send the same value with each request.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PARTS = r"(?:.*[_.-])?"

_SECRET = re.compile(
    _PARTS + r"(?:(?:proxy|http|www)?auth(?:orization|entication|token)?|(?:access|id|auth|user|api|app|session)?token|"
    r"jwt|bearer|assertion|secret|password|passwd|passcode|pin|credentials?|session(?:[_-]?id)?|[a-z]*sess(?:ion)?id|sid|"
    r"(?:api|access|app)?[_-]?key)"
)
"""Fields with which clients authenticate."""
_IDENTITY = re.compile(
    _PARTS + r"(?:user(?:[_-]?(?:id|name|login|email|uuid|guid|info))?|e?mail|login|identity|uid|guid|sub|subject|eppn|"
    r"principal(?:-(?:id|name))?|(?:account|client|customer|employee|member|person)[_-]?id|oidc-(?:identity|claim-[\w-]+)|"
    r"consumer-[a-z-]+|client-?cert(?:ificate)?|client-(?:s-)?dn|client-fingerprint)"
)
"""Fields in which a proxy names the user that it authenticated, or a client itself."""
_RENEWED = re.compile(_PARTS + r"(?:assertion|jwt|oidc-(?:data|accesstoken)|security-token|access-token)")
"""Fields that a proxy renews with each request, or often, beside those that name the user."""
_DIFFERENT_EACH_TIME = (
    r"csrf|xsrf|antiforgery|captcha|turnstile|idempotency|websocket|cache-|surrogate|public-?key|nonce|signature|digest|"
    r"timestamp|request-?(?:id|token|key)|(?:page|pagination|continuation|sync|next|cursor|upload|device|push)-?token|"
    r"(?:partition|sort|dedup|row|range|routing|correlation|object|encryption|customer)-?key|trace|span"
)
_NO_IDENTITY = re.compile(rf".*(?:{_DIFFERENT_EACH_TIME}).*")
"""Fields that differ with each request, and fields that do not name a client although they end like a secret."""
_OTHER_MEANING = re.compile(
    r"(?:accept|access-control|alt-used|cache-control|cdn|cf|client-ip|connection|content|date|dnt|expect|fastly|fly|"
    r"forwarded|from|host|http2-settings|if|keep-alive|last-event-id|max-forwards|origin|pragma|prefer|priority|range|"
    r"referer|save-data|sec|te|trailer|transfer-encoding|true-client-ip|upgrade|user-agent|via|warning|cookie|"
    r"baggage|b3|uber|x-amzn?|x-amz-cf|x-appengine|x-arr|x-attempt|x-azure|x-b3|x-client-ip|x-cloud|x-cluster|"
    r"x-correlation-id|x-datadog|x-envoy|x-forwarded|x-github-request|x-http-method|x-method|x-original|x-nf|x-ot|"
    r"x-real-ip|x-requested-with|x-request|x-retry|x-scheme|x-timer|x-unique-id|x-varnish|x-vercel|x-waws|x-wap)(?:-.*)?|"
    r".*-(?:log-id|ref|request-id|unique-id)|request-id"
)
"""Fields that do not name the sender (RFC 9110, Fetch), or that proxies and tracing add."""
_PARAMETER = re.compile(
    r"(?:[\w-]*[_-])?(?:token|jwt|secret|password|api[_-]?key|apikey|access[_-]?key|auth[_-]?key)|(?:access|auth|api)token"
)
LONGEST = 100
"""The number of characters of a name that are checked."""


@lru_cache(maxsize=1024)
def looks_like_credential(field: str) -> bool:
    """Whether a header field or cookie of this name is a secret, or a field in which a proxy names the user."""
    name = field[-LONGEST:]
    return _NO_IDENTITY.fullmatch(name) is None and (_SECRET.fullmatch(name) or _IDENTITY.fullmatch(name)) is not None


@lru_cache(maxsize=1024)
def may_identify(field: str) -> bool:
    """Whether a header field may name its sender in some project: any field without another known meaning."""
    name = field[-LONGEST:]
    return looks_like_credential(field) or (_NO_IDENTITY.fullmatch(name) or _OTHER_MEANING.fullmatch(name)) is None


@lru_cache(maxsize=1024)
def is_secret_parameter(parameter: str) -> bool:
    """Whether a query parameter looks like a credential. `key` and `session` do not: they are too common."""
    name = parameter[-LONGEST:].lower()
    return _NO_IDENTITY.fullmatch(name.replace("_", "-")) is None and _PARAMETER.fullmatch(name) is not None


def identifies_user(field: str) -> bool:
    """Whether a proxy names the user in this field."""
    return _IDENTITY.fullmatch(field[-LONGEST:]) is not None


def is_renewed(field: str) -> bool:
    """Whether a proxy may change the field with each request."""
    return _RENEWED.fullmatch(field[-LONGEST:]) is not None
