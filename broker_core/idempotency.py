"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): parsing, scope, fingerprint and repeated requests."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import http_sf

from broker_core.dispatches.dispatch import State
from broker_core.envelope import context
from broker_core.errors import IdempotencyKeyError, IdempotencyKeyInFlightError, IdempotencyKeyReusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker_core.errors import BrokerError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Safe methods (RFC 9110, section 9.2.1): clients may repeat them without a key."""

MAX_LENGTH = 255
"""The maximum length of a key, in characters."""

MAX_FIELD_LENGTH = 1024

_BARE = re.compile(r"[!#-+\--~]+")
"""Visible ASCII without the quote, and without the comma, which joins several fields of the same name."""


def parse_key(field: str) -> str:
    """Returns the key. Raises IdempotencyKeyError if the field is malformed.

    The key is a String (RFC 9651, section 3.3.3), whose parameters are ignored. Many clients send it without the
    quotes; that is accepted too.
    """
    field = field.strip(" \t")
    if len(field) > MAX_FIELD_LENGTH:
        raise IdempotencyKeyError(f"the field has more than {MAX_FIELD_LENGTH} characters")
    key = _string(field) if field.startswith('"') else field if _BARE.fullmatch(field) else None
    if key is None:
        raise IdempotencyKeyError("the field is neither a quoted string nor visible ASCII without quotes and commas")
    if not 0 < len(key) <= MAX_LENGTH:
        raise IdempotencyKeyError(f"the key has {len(key)} characters; it must have 1 to {MAX_LENGTH}")
    return key


def _string(field: str) -> str | None:
    try:
        parsed: Any = http_sf.parse(field.encode("ascii"), tltype="item")
    except ValueError:  # also the base class of UnicodeEncodeError and of the parser's own error
        return None
    value, _parameters = parsed
    return value if isinstance(value, str) else None


def scope(site: Sequence[str], user: str, client: str, route: str, key: str) -> str:
    """Returns a digest that identifies a key: of the site (host and tenant), the user or else the client, the route and
    the key itself.
    """
    who = ("user", user) if user else ("client", client)
    return sha256(context("idempotency scope", *site, *who, route, key)).hexdigest()


def fingerprint(key: str, method: str, target: str, media_type: str, parameters: Mapping[str, str], body: bytes) -> str:
    """Returns a digest of the request that the key was sent with; `target` is the path with the query.

    It includes the key, which the ledger does not store, so that nobody can guess a body of few possible values from
    the ledger. It excludes the boundary of a multipart body, which clients choose again for each attempt, and the
    content type of an empty body, which some servers invent.
    """
    described, boundary = dict(parameters), ""
    if media_type.startswith("multipart/") and parameters.get("boundary", "").isascii():
        boundary = described.pop("boundary", "")
    content_type = json.dumps([media_type, sorted(described.items())]) if body else ""
    digest = sha256(context("idempotency fingerprint", key, method, target, content_type))
    for segment in _segments(body, boundary):
        digest.update(len(segment).to_bytes(8, "big"))
        digest.update(segment)
    return digest.hexdigest()


def _segments(body: bytes, boundary: str) -> list[bytes]:
    """Splits the body at its delimiter lines (RFC 2046, section 5.1.1), if it has any."""
    return (b"\r\n" + body).split(b"\r\n--" + boundary.encode()) if boundary else [body]


def verdict(state: State, *, same_request: bool) -> BrokerError | None:
    """Returns why a repeated request is refused, or None. `state` is that of the first dispatch with this key."""
    if not same_request:
        return IdempotencyKeyReusedError("the key was used for another request; a new request needs a new key")
    if state is State.RUNNING:
        return IdempotencyKeyInFlightError("the first request with this key is still running")
    return None
