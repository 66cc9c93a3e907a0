"""The session of a request, and the user that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.http import HttpRequest

LOGGED_IN = "_auth_user_id"
"""The session key of the user's id, as in django.contrib.auth."""


def session_of(request: HttpRequest) -> Any:
    """Returns the session of Django's middleware; None if the project replaced it with something else."""
    session = getattr(request, "session", None)
    return session if hasattr(session, "session_key") else None
