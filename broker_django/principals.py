"""Who sent a request, as far as the key of a user does not say it: it travels with the message."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from broker_core.errors import UserInactiveError
from broker_django import freezing, past_sessions, users
from broker_django.context import user_key

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_django.rest import Found

logger = logging.getLogger("broker_django.principals")

ADMITTED, USER, VIEW_USER, AUTH, SESSION = "admitted", "user", "view_user", "auth", "session"


def describe(request: HttpRequest, found: Found | None) -> dict[str, Any] | None:
    """What a replay has to know of a request's user and session, and of whom its view has authenticated; None for
    nothing.
    """
    user = getattr(request, "user", None)
    told = {USER: _no_row(user), SESSION: past_sessions.describe(request, user_key(user))}
    if found is not None:
        told |= {ADMITTED: found.admitted, VIEW_USER: _no_row(found.user), AUTH: _frozen(found.auth)}
    kept = {name: value for name, value in told.items() if value is not None}
    return kept or None


def _no_row(user: Any) -> Any:
    """A user of another kind than the project's own: one without a key, of another model, or of a token."""
    if not getattr(user, "is_authenticated", False):
        return None
    model = users.user_model()
    return None if model is not None and issubclass(user.__class__, model) and user.pk is not None else _frozen(user)


def _frozen(value: Any) -> Any:
    try:
        return freezing.freeze(value)
    except freezing.NotFrozenError as error:
        logger.info("A %s cannot travel, the replay has to find it again: %s", type(value).__name__, error)
        return None


def accepted(key: str | None, frozen: Any) -> Any:
    """The user as accepted, active now. Raises UserInactiveError."""
    if frozen is None:
        return users.active_user(key or "")
    user = _thawed(frozen)
    if user is None or not users.is_active(user):
        raise UserInactiveError("the user who made this request is gone or no longer active")
    return user


def auth_of(principal: dict[str, Any]) -> Any:
    """What authenticated the user: the view's `request.auth`."""
    return _thawed(principal.get(AUTH))


def _thawed(frozen: Any) -> Any:
    try:
        return freezing.thaw(frozen)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        logger.warning("What was known of a user cannot be made again: %s", type(error).__name__)
        return None


def is_same(found: Any, key: str | None, frozen: Any) -> bool:
    """Whether this is the user who was accepted: by key, or else for being authenticated at all."""
    if key is not None:
        return user_key(found) == key
    return frozen is None or bool(getattr(found, "is_authenticated", False))
