"""Projects without some or all of Django's contrib apps, each in a separate process."""

from __future__ import annotations

import os
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.processes import finished

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess


def process(tmp_path: Path, apps: str, *command: str, **variables: str) -> CompletedProcess[str]:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.bare.settings",
        "DATABASE_PATH": str(tmp_path / "bare.sqlite3"),
        "APPS": apps,
        "PYTHONWARNINGS": "ignore",
        **variables,
    }
    return finished([sys.executable, *command], env=environment)


def ran(tmp_path: Path, apps: str, *command: str, **variables: str) -> str:
    done = process(tmp_path, apps, *(command or ("-m", "tests.bare")), **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "apps",
    [
        "",
        "contenttypes messages",
        "sessions",
        "contenttypes sessions messages",
        "contenttypes auth",
        "contenttypes auth messages",
        "contenttypes auth sessions",
        "contenttypes auth sessions messages",
        "contenttypes auth sessions messages admin",
    ],
)
def test_a_project_without_some_of_djangos_apps_queues_replays_and_polls(tmp_path: Path, apps: str) -> None:
    assert "fine" in ran(tmp_path, apps)


@pytest.mark.parametrize("engine", ["signed_cookies", "cache"])
def test_sessions_need_no_app_with_some_engines(tmp_path: Path, engine: str) -> None:
    assert "fine" in ran(tmp_path, "", SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}", USES="sessions")


def test_a_user_model_of_the_project_without_djangos_users(tmp_path: Path) -> None:
    variables = {"AUTH_USER_MODEL": "accounts.Account", "OWN_MIDDLEWARE": "tests.bare.middleware.account"}
    user = {"AS_USER": "ann@site.example", "OWNER": str(uuid.uuid4())}
    assert "fine" in ran(tmp_path, "tests.bare.accounts", USES="auth", **user, **variables)
    explain = ("-m", "django", "broker_explain", "POST", "/queued/", "--user")
    assert "Queued on bulk" in ran(tmp_path, "tests.bare.accounts", *explain, "ann@site.example", **variables)


def test_a_user_model_of_the_project_beside_djangos_users(tmp_path: Path) -> None:
    variables = {"AUTH_USER_MODEL": "accounts.Account", "OWN_MIDDLEWARE": "tests.bare.middleware.account"}
    apps = "contenttypes auth sessions tests.bare.accounts"
    assert "fine" in ran(tmp_path, apps, AS_USER="ann@site.example", OWNER=str(uuid.uuid4()), **variables)


@pytest.mark.parametrize("model", ["missing.User", "nonsense"])
def test_users_known_only_to_the_projects_middleware(tmp_path: Path, model: str) -> None:
    variables = {"AUTH_USER_MODEL": model, "OWN_MIDDLEWARE": "tests.bare.middleware.caller"}
    assert "fine" in ran(tmp_path, "", AS_USER="ann", OWNER="ann", **variables)
    command = [sys.executable, "-m", "django", "broker_explain", "GET", "/queued/", "--user", "ann"]
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.bare.settings",
        "DATABASE_PATH": ":memory:",
        "APPS": "",
    }
    assert "This project has no users." in finished(command, env=environment).stderr


def test_a_project_may_register_the_admin_itself(tmp_path: Path) -> None:
    script = (
        "import django; django.setup()\n"
        "from django.contrib import admin\n"
        "from broker_django.models import DispatchRecord\n"
        "assert not admin.site.is_registered(DispatchRecord)\n"
        "import broker_django.admin\n"
        "assert admin.site.is_registered(DispatchRecord)"
    )
    ran(tmp_path, "contenttypes auth sessions messages django.contrib.admin.apps.SimpleAdminConfig", "-c", script)
