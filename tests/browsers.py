"""Django test clients with a login, or with an anonymous session."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client


def logged_in(name: str, **options: Any) -> Client:
    """Logs in as the user with this name, who is created if necessary."""
    client = Client(**options)
    client.force_login(User.objects.get_or_create(username=name)[0])
    return client


def with_a_session() -> Client:
    """Returns an anonymous client with data in its session."""
    client = Client()
    session = client.session
    session["cart"] = [1]
    session.save()
    client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
    return client
