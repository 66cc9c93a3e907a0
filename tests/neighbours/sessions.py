"""Logins of a project that has no view for it."""

LOG_IN = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth.models import User

user = User.objects.get_or_create(username="ada")[0]
session = import_module(settings.SESSION_ENGINE).SessionStore()
session["_auth_user_id"], session["_auth_user_hash"] = str(user.pk), user.get_session_auth_hash()
session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
session.save()
print(session.session_key)
"""
"""What `Project.run` runs: its last line is the key of ada's session."""
