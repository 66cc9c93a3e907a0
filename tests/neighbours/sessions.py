"""Logins of a project that has no view for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from tests.neighbours.conftest import Project

LOG_IN = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth.models import User

user = User.objects.get_or_create(username="ada")[0]
for _ in range(2):
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session["_auth_user_id"], session["_auth_user_hash"] = str(user.pk), user.get_session_auth_hash()
    session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
    session.save()
    print(session.session_key)
"""
"""What `Project.run` runs: its last two lines are the keys of ada's sessions."""


def end_session(project: Project, key: str) -> None:
    with psycopg.connect(project.dsn, autocommit=True) as link:
        ended = link.execute("DELETE FROM django_session WHERE session_key = %s", [key])
        assert ended.rowcount == 1
