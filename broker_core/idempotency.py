"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): its value, its scope, and what a repetition gets."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import http_sf

from broker_core.dispatches import State
from broker_core.envelope import context
from broker_core.errors import IdempotencyKeyError, IdempotencyKeyInFlightError, IdempotencyKeyReusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker_core.errors import BrokerError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that may be repeated anyhow (RFC 9110, section 9.2.1)."""

MAX_LENGTH = 255
"""Characters of a key."""

MAX_FIELD_LENGTH = 1024

_BARE = re.compile(r"[!#-+\--~]+")
"""Visible ASCII but the quote, and the comma, which joins several fields of the same name."""


def parse_key(field: str) -> str:
    """The key: a String (RFC 9651, section 3.3.3), whose parameters are ignored, or the same without quotes, as many
    clients send it. Raises IdempotencyKeyError.
    """
    field = field.strip(" \t")
    if len(field) > MAX_FIELD_LENGTH:
        raise IdempotencyKeyError(f"the field has more than {MAX_FIELD_LENGTH} characters")
    key = _string(field) if field.startswith('"') else field if _BARE.fullmatch(field) else None
    if key is None:
        raise IdempotencyKeyError("the field is neither a quoted string nor visible ASCII without quotes and commas")
    if not 0 < len(key) <= MAX_LENGTH:
        raise IdempotencyKeyError(f"the key has {len(key)} characters, it may have 1 to {MAX_LENGTH}")
    return key


def _string(field: str) -> str | None:
    try:
        parsed: Any = http_sf.parse(field.encode("ascii"), tltype="item")
    except ValueError:  # of which UnicodeEncodeError and the parser's own are
        return None
    value, _parameters = parsed
    return value if isinstance(value, str) else None


def scope(site: Sequence[str], user: str, client: str, route: str, key: str) -> str:
    """What is unique: a digest of the key, of the site that it was sent to (its host and its tenant), of the user, or
    else the client, who sent it, and of the route it is for.
    """
    who = ("user", user) if user else ("client", client)
    return sha256(context("idempotency scope", *site, *who, route, key)).hexdigest()


def fingerprint(key: str, method: str, target: str, media_type: str, parameters: Mapping[str, str], body: bytes) -> str:
    """A digest of the request that the key is for; `target` is the path with the query.

    The key is in it so that a body of few possible values cannot be guessed from the ledger, which does not have the
    key. The boundary of a multipart body is not: clients make up another one when they repeat a request. Nor is the
    type of an empty body, for which some servers make one up.
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
    """The body, split at its delimiter lines (RFC 2046, section 5.1.1) where it has any."""
    return (b"\r\n" + body).split(b"\r\n--" + boundary.encode()) if boundary else [body]


def verdict(state: State, *, same_request: bool) -> BrokerError | None:
    """Why a repetition is refused, by the state of the dispatch that its key was used for; None where it is not."""
    if not same_request:
        return IdempotencyKeyReusedError("the key was used for another request; a new request needs a new key")
    if state is State.RUNNING:
        return IdempotencyKeyInFlightError("the first request with this key is being worked on")
    return None
