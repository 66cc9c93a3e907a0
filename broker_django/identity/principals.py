"""Who sent a request, beyond the user's key. It travels with the message."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.db.models import Model

from broker_core.errors import UserInactiveError
from broker_django.identity import past_sessions, users
from broker_django.identity.freezing import freeze
from broker_django.identity.instances import NotFrozenError
from broker_django.identity.owners import is_unidentified, owner_of
from broker_django.identity.thawing import thaw
from broker_django.identity.users import user_key

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_django.identity.drf import Found

logger = logging.getLogger("broker_django.identity.principals")

ADMITTED, USER, VIEW_USER, AUTH, SESSION = "admitted", "user", "view_user", "auth", "session"
NO_AUTH = "no_auth"
"""Whether `request.auth` cannot be frozen. Then only the view can find it again."""
GUEST = "guest"
"""What a view found without authenticating a user, such as an API key; empty if it cannot be frozen."""
AGAIN = "again"
"""Whether a view's user must be found again, because it is neither a row nor can be frozen."""


def describe(request: HttpRequest, user: Any, found: Found | None) -> dict[str, Any] | None:
    """Returns what a replay needs to know about the request's user, session and authentication; None if nothing."""
    described = {USER: _unusual_user(user), SESSION: past_sessions.describe(request, user_key(user))}
    if found is not None:
        described |= {ADMITTED: found.admitted, VIEW_USER: _unusual_user(found.user), AUTH: _frozen_auth(found.auth)}
        if found.auth is not None and described[AUTH] is None:
            described[NO_AUTH] = True
        if not users.is_authenticated(found.user):
            described[GUEST] = _guest(found)
        elif not users.is_row(found.user) and described[VIEW_USER] is None:
            described[AGAIN] = True
    kept = {name: value for name, value in described.items() if value is not None}
    return kept or None


def _guest(found: Found) -> Any:
    if found.auth is None:
        return None
    frozen = _frozen(found.user)
    return [] if frozen is None and found.user is not None else [frozen]


def _unusual_user(user: Any) -> Any:
    """Freezes a user that is not simply a row of the project's user model. Returns None for others."""
    of_project = users.is_row(user) and user.__class__ is users.user_model()
    return None if not users.is_authenticated(user) or of_project else _frozen(user)


def _frozen_auth(auth: Any) -> Any:
    """With the fields of rows, because tokens are deleted when they expire or were used once."""
    return _frozen(auth, whole_rows=True)


def _frozen(value: Any, *, whole_rows: bool = False) -> Any:
    try:
        return freeze(value, whole_rows=whole_rows)
    except NotFrozenError as error:
        logger.info(
            "A %s cannot be sent with the message. The replay must find it again: %s", type(value).__name__, error
        )
        return None


def accepted(key: str | None, frozen: Any) -> Any:
    """Returns the accepted user, if active now. Raises UserInactiveError."""
    if frozen is None:
        return users.active_user(key or "")
    user = _thawed(frozen)
    if user is None or (isinstance(user, Model) and not users.is_active(user)) or _is_deactivated(user):
        raise UserInactiveError("the user who made this request no longer exists or is not active")
    return user


def _is_deactivated(user: Any) -> bool:
    """Whether the row that an unsaved user represents is not active."""
    model = users.user_model()
    if model is None or not isinstance(user, model) or user.pk is None:
        return False
    row = model._default_manager.filter(pk=user.pk).first()
    return row is not None and not users.is_active(row)


def _thawed(frozen: Any) -> Any:
    try:
        return thaw(frozen)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        logger.warning("The user of a request cannot be restored: %s", type(error).__name__)
        return None


def found_as_accepted(found: Found, key: str | None, principal: dict[str, Any]) -> Found | None:
    """Returns what the view must find instead; None if its own result is right. Raises UserInactiveError."""
    frozen, guest, auth = (principal.get(what) for what in (VIEW_USER, GUEST, AUTH))
    same_auth = auth is None or _frozen_auth(found.auth) == auth
    if guest is not None:
        if same_auth and not users.is_authenticated(found.user):
            return None
        user = _thawed(guest[0]) if guest else users.anonymous()
        return replace(found, user=user, auth=_thawed(auth))
    if key is None and frozen is None:
        return None
    if not is_same(found.user, key, frozen):
        if principal.get(NO_AUTH):
            raise UserInactiveError("the authentication of this request has expired and cannot be restored")
        return replace(found, user=accepted(key, frozen), auth=_thawed(auth))
    return None if same_auth else replace(found, auth=_thawed(auth))


def is_same(found: Any, key: str | None, frozen: Any) -> bool:
    """Whether this is the accepted user: the same key, or else the same owner in the ledger."""
    if key is not None or frozen is None:
        return user_key(found) == key
    owner = owner_of(_thawed(frozen))
    return owner is not None and not is_unidentified(owner) and owner_of(found) == owner
