"""How the ledger names whom a dispatch belongs to: the same user is known again, and no other is taken for it."""

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

UNTOLD = users.DIGEST
"""What begins the name of an owner whom nobody can find again, or tell from others: whoever shows the claim, or again
all that was sent, stands for it. What follows is the key of a user, who has to be active, if one was found.
"""

LONGEST_PATH = 150
"""Characters of the name of a class, from its end, beside a digest."""

USERNAME = "get_username"
IDENTIFIERS = (
    *(USERNAME, "username", "preferred_username", "id", "sub", "user_id", "uid", "uuid", "oid", "upn", "email"),
    *("client_id", "account_id", "customer_id", "key_id", "login", "name"),
)
"""What tells users of one class apart who have no key: all of these that say anything, and `iss`, who issued them."""
CLAIMS = ("claims", "payload", "token")
"""The attributes in which a user may have the claims of its token (RFC 7519, section 4.1)."""
OF_ONE_TOKEN = frozenset({"exp", "iat", "nbf", "jti", "auth_time", "at_hash", "nonce", "expires_at", "issued_at"})
"""What another token of the same user says otherwise."""


def owner_of(user: Any, auth: Any = None) -> str | None:
    """How the ledger names a user: by its key, and one that has none by a digest of what it is known by.

    If there is no user, or an anonymous one, what authenticated the request stands for it: an API key has no user.
    Returns None if there is neither, and UNTOLD if nothing tells it from others.
    """
    who = user if getattr(user, "is_authenticated", False) else auth
    if who is None:
        return None
    key = user_key(user)
    if key is None and who is auth and getattr(auth, "pk", None) is not None:
        key = f"{class_path(auth)}:{auth.pk}"
    if key is not None and len(key) <= KEY_LENGTH:
        return key
    known = key or _identity(who) or _all_of(who, auth)
    return f"{class_path(who)[-LONGEST_PATH:]}{users.DIGEST}{sha256(known.encode()).hexdigest()}" if known else UNTOLD


def untold(key: str | None) -> str:
    """The owner that cannot be told; with the key of the user, if there is one and it fits."""
    return f"{UNTOLD}{key or ''}" if len(key or "") < KEY_LENGTH else UNTOLD


def is_untold(owner: str) -> bool:
    return owner.startswith(UNTOLD)


def _identity(who: Any) -> str:
    known = [f"{name}={value}" for name, value in ((name, _identifier(who, name)) for name in IDENTIFIERS) if value]
    return " ".join([*known, f"iss={_identifier(who, 'iss')}"]) if known else ""


def _all_of(who: Any, auth: Any) -> str:
    """All attributes of a user, and what authenticated it: a service may have one user for all of its keys."""
    try:
        attributes = {name: freeze(each) for name, each in attributes_of(who).items() if name not in OF_ONE_TOKEN}
        parts = [attributes, freeze(auth)] if who is not auth else [freeze(auth)]
    except NotFrozenError as error:
        logger.info("A %s is not told from others: %s", type(who).__name__, error)
        return ""
    return json.dumps(parts, sort_keys=True) if any(parts) else ""


def _identifier(who: Any, name: str) -> str:
    """What a user, or the claims of its token, say; empty if they do not say it."""
    for holder in (who, *(_attribute(who, claims) for claims in CLAIMS)):
        value = holder.get(name) if isinstance(holder, Mapping) else _attribute(holder, name)
        if isinstance(value, str | int | UUID) and not isinstance(value, bool) and str(value):
            return str(value)
    return ""


def _attribute(holder: Any, name: str) -> Any:
    """The value of an attribute, or of a property; None for the one that the class has for all."""
    try:
        of_class = getattr_static(type(holder), name, None)
        value = getattr(holder, name, None)
        if isinstance(of_class, str | int | UUID) and value == of_class:
            return None
        return value() if name == USERNAME and callable(value) else value
    except Exception:  # noqa: BLE001 - of the project's own code
        return None
