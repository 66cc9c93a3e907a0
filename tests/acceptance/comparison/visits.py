"""What happens before a compared request, and what is checked after it. Neither is ever queued."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.middleware.csrf import get_token
from django.views.decorators.csrf import csrf_exempt
from rest_framework.authtoken.models import Token

from tests.acceptance.comparison.models import Note
from tests.acceptance.prepare import PASSWORD, STAFF, USERS

KEY = "0123456789abcdef0123456789abcdef01234567"
"""The API key of the first user."""


@csrf_exempt
def arrive(request: HttpRequest) -> JsonResponse:
    """Remove all that views left behind, and begin the session of the shape."""
    wanted = json.loads(request.body)
    with transaction.atomic():
        _clean_up()
    if wanted["user"]:
        login(request, User.objects.get(username=wanted["user"]))
    for key, value in wanted["session"].items():
        request.session[key] = value
    return JsonResponse({"token": get_token(request) if wanted["csrf"] else ""})


def _clean_up() -> None:
    Note.objects.all().delete()
    Session.objects.all().delete()
    Token.objects.all().delete()
    cache.clear()
    for directory in (settings.MEDIA_ROOT / "kept", settings.EMAIL_FILE_PATH):
        shutil.rmtree(directory, ignore_errors=True)
    User.objects.exclude(username__in=[*USERS, STAFF]).delete()
    ada = User.objects.get(username=USERS[0])
    if not ada.check_password(PASSWORD) or not ada.is_active:
        ada.set_password(PASSWORD)
        ada.is_active = True
        ada.save()
    User.objects.update(last_login=None)
    ada.user_permissions.set(Permission.objects.filter(codename="add_note"))
    Token.objects.create(key=KEY, user=ada)


def leave(request: HttpRequest) -> JsonResponse:
    """Returns the state of the client and of the project."""
    session = {key: value for key, value in request.session.items() if key != "_auth_user_hash"}
    return JsonResponse(
        {
            "user": request.user.get_username(),
            "session": session,
            "session's age": [request.session.get_expiry_age() // 60, request.session.get_expire_at_browser_close()],
            "sessions": Session.objects.count(),
            "messages": [[message.level, message.message, message.tags] for message in get_messages(request)],
            "rows": list(Note.objects.order_by("pk").values_list("text", flat=True)),
            "users": [
                [user.username, user.is_active, user.last_login is not None, user.check_password(PASSWORD)]
                for user in User.objects.order_by("username")
            ],
            "files": {path.name: _digest(path) for path in _files(settings.MEDIA_ROOT / "kept")},
            "mails": [path.read_text().count("Subject:") for path in _files(Path(settings.EMAIL_FILE_PATH))],
            "cache": cache.get("comparison"),
        }
    )


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
