"""The project's users, if it has any. `django.contrib.auth` is imported only if it is installed."""

from __future__ import annotations

import contextlib
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.utils.module_loading import import_string

from broker_core.errors import UserInactiveError
from broker_django.identity import instances

KEY_LENGTH = 255
"""Characters that the ledger stores of a user's key."""

DIGEST = "#"
"""Separates the class from the digest in the name of an owner without a key."""


class Nobody:
    """An anonymous user, for projects that do not use `django.contrib.auth`."""

    pk = id = None
    is_authenticated = is_active = is_staff = is_superuser = False
    is_anonymous = True

    def get_username(self) -> str:
        return ""

    def __str__(self) -> str:
        return "Nobody"


def anonymous() -> Any:
    """Returns Django's AnonymousUser, if its app is installed."""
    if not apps.is_installed("django.contrib.auth"):
        return Nobody()
    return import_string("django.contrib.auth.models.AnonymousUser")()


def user_model() -> Any:
    """Returns the project's user model; None if its app is not installed."""
    try:
        return apps.get_model(settings.AUTH_USER_MODEL, require_ready=False)
    except (LookupError, ValueError):
        return None


def is_row(user: Any) -> bool:
    """Whether this is a saved user of the project's model."""
    model = user_model()
    return model is not None and isinstance(user, model) and instances.is_row(user)


def is_authenticated(user: Any) -> bool:
    """Whether the user is logged in. Users that middleware or an authenticator found may lack the attribute."""
    return bool(getattr(user, "is_authenticated", False))


def is_active(user: Any) -> bool:
    """Whether this user may log in, according to the authentication backends, or else to `is_active`.

    Users without `is_active` may.
    """
    model = user_model() if apps.is_installed("django.contrib.auth") else None
    if model is not None and isinstance(user, model) and settings.AUTHENTICATION_BACKENDS:
        backends = import_string("django.contrib.auth.get_backends")()
        deciding = [backend for backend in backends if hasattr(backend, "user_can_authenticate")]
        if deciding:
            return any(backend.user_can_authenticate(user) for backend in deciding)
    return bool(getattr(user, "is_active", True))


def may_act(key: str) -> bool:
    """Whether an active user has this key. Users that are not rows may act."""
    if key.startswith(DIGEST):
        return key == DIGEST or may_act(key.removeprefix(DIGEST))
    with contextlib.suppress(UserInactiveError):
        active_user(key)
        return True
    if DIGEST in key:
        return True
    path, of_another_kind, pk = key.rpartition(":")
    if not of_another_kind:
        return False
    try:
        kind = import_string(path)
        return not hasattr(kind, "_default_manager") or is_active(kind._default_manager.get(pk=pk))
    except (ImportError, ObjectDoesNotExist, ValueError, ValidationError):
        return False


def active_user(key: str) -> Any:
    """Returns the user with this primary key. Raises UserInactiveError."""
    model = user_model()
    try:
        user = None if model is None else model._default_manager.filter(pk=key).first()
    except (ValueError, ValidationError):
        user = None
    if user is None or not is_active(user):
        raise UserInactiveError("the user who made this request no longer exists or is not active")
    return user


def user_key(user: Any) -> str | None:
    """Returns the primary key as text, with the name of the class if it is not the project's user model.

    Returns None if there is no user, an anonymous one, or one without a key.
    """
    try:
        key = getattr(user, "pk", None) if is_authenticated(user) else None
    except NotImplementedError:  # the user of a token may raise it
        key = None
    if key is None:
        return None
    model = user_model()
    return str(key) if model is None or issubclass(user.__class__, model) else f"{class_path(user)}:{key}"


def class_path(value: Any) -> str:
    kind = value.__class__
    return f"{kind.__module__}.{kind.__qualname__}"
