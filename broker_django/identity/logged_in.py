"""The session of a request, and whom it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.http import HttpRequest

LOGGED_IN = "_auth_user_id"
"""The key of the session's user, as django.contrib.auth has it."""


def session_of(request: HttpRequest) -> Any:
    """The session of Django's middleware; None for what a project may have put in its place."""
    session = getattr(request, "session", None)
    return session if hasattr(session, "session_key") else None
