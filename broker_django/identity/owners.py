"""Names of owners in the ledger: the same user always has the same name, and no other user has it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from inspect import getattr_static
from typing import Any
from uuid import UUID

from broker_django.identity import users
from broker_django.identity.freezing import freeze
from broker_django.identity.instances import NotFrozenError, attributes_of
from broker_django.identity.users import KEY_LENGTH, class_path, user_key

logger = logging.getLogger("broker_django.identity.owners")

UNIDENTIFIED = users.DIGEST
"""Prefix for owners that cannot be identified again, or distinguished from others. The claim, or everything that was
sent, then proves ownership. The key of a user follows, if one was found, who must be active.
"""

LONGEST_PATH = 150
"""Characters of a class's name to keep, from its end, beside a digest."""

USERNAME = "get_username"
IDENTIFIERS = (
    *(USERNAME, "username", "preferred_username", "id", "sub", "user_id", "uid", "uuid", "oid", "upn", "email"),
    *("client_id", "account_id", "customer_id", "key_id", "login", "name"),
)
"""Attributes that distinguish users of one class without a key: all that are set, and `iss`, the issuer."""
CLAIMS = ("claims", "payload", "token")
"""Attributes that may contain the claims of a user's token (RFC 7519, section 4.1)."""
OF_ONE_TOKEN = frozenset({"exp", "iat", "nbf", "jti", "auth_time", "at_hash", "nonce", "expires_at", "issued_at"})
"""Claims that differ between tokens of the same user."""


def owner_of(user: Any, auth: Any = None) -> str | None:
    """Returns the ledger's name of a user: its key, or for users without a key a digest of what identifies them.

    Without a user, what authenticated the request replaces it: an API key has no user. Returns None if there is
    neither, and UNIDENTIFIED if nothing distinguishes the owner from others.
    """
    who = user if users.is_authenticated(user) else auth
    if who is None:
        return None
    key = user_key(user)
    if key is None and who is auth and getattr(auth, "pk", None) is not None:
        key = f"{class_path(auth)}:{auth.pk}"
    if key is not None and len(key) <= KEY_LENGTH:
        return key
    known = key or _identity(who) or _all_of(who, auth)
    if not known:
        return UNIDENTIFIED
    return f"{class_path(who)[-LONGEST_PATH:]}{users.DIGEST}{sha256(known.encode()).hexdigest()}"


def unidentified(key: str | None) -> str:
    """Returns the name of an unidentifiable owner, with the user's key if there is one and it fits."""
    return f"{UNIDENTIFIED}{key or ''}" if len(key or "") < KEY_LENGTH else UNIDENTIFIED


def is_unidentified(owner: str) -> bool:
    return owner.startswith(UNIDENTIFIED)


def _identity(who: Any) -> str:
    known = [f"{name}={value}" for name, value in ((name, _identifier(who, name)) for name in IDENTIFIERS) if value]
    return " ".join([*known, f"iss={_identifier(who, 'iss')}"]) if known else ""


def _all_of(who: Any, auth: Any) -> str:
    """Returns all attributes of a user, and what authenticated it, because a service may have one user for all its
    keys.
    """
    try:
        attributes = {name: freeze(each) for name, each in attributes_of(who).items() if name not in OF_ONE_TOKEN}
        parts = [attributes, freeze(auth)] if who is not auth else [freeze(auth)]
    except NotFrozenError as error:
        logger.info("A %s cannot be distinguished from others: %s", type(who).__name__, error)
        return ""
    return json.dumps(parts, sort_keys=True) if any(parts) else ""


def _identifier(who: Any, name: str) -> str:
    """Returns the value of an attribute of the user, or of a claim of its token; empty if it is not set."""
    for holder in (who, *(_attribute(who, claims) for claims in CLAIMS)):
        value = holder.get(name) if isinstance(holder, Mapping) else _attribute(holder, name)
        if isinstance(value, str | int | UUID) and not isinstance(value, bool) and str(value):
            return str(value)
    return ""


def _attribute(holder: Any, name: str) -> Any:
    """Returns the value of an attribute or property; None if it is only the class's default."""
    try:
        of_class = getattr_static(type(holder), name, None)
        value = getattr(holder, name, None)
        if isinstance(of_class, str | int | UUID) and value == of_class:
            return None
        return value() if name == USERNAME and callable(value) else value
    except Exception:  # noqa: BLE001 - the project's code may raise anything
        return None
