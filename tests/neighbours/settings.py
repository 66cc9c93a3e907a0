"""The settings of all projects here. NEIGHBOUR names the one that a process of its own serves."""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, MIDDLEWARE

SITE_APPS = [app for app in INSTALLED_APPS if app != "tests.site"]
SITE_MIDDLEWARE = MIDDLEWARE
OURS = MIDDLEWARE[-1]

APPS = [
    "allauth",
    "allauth.account",
    "corsheaders",
    "debug_toolbar",
    "django_prometheus",
    "django_structlog",
    "django_user_agents",
    "silk",
    "auditlog",
    "axes",
    "django_otp",
    "django_otp.plugins.otp_static",
    "django_otp.plugins.otp_totp",
    "two_factor",
    "guardian",
    "hijack",
    "hijack.contrib.admin",
    "impersonate",
    "knox",
    "maintenance_mode",
    "oauth2_provider",
    "rest_framework_api_key",
    "reversion",
    "simple_history",
    "waffle",
]
INSTALLED_APPS = [*INSTALLED_APPS, *(app for app in APPS if find_spec(app)), "tests.neighbours.shop"]

if find_spec("allauth"):  # which starts with its middleware only
    MIDDLEWARE = [*MIDDLEWARE[:-1], "allauth.account.middleware.AccountMiddleware", OURS]

SILENCED_SYSTEM_CHECKS = ["axes.W003", "hijack.E001"]
REQUEST_BROKER: dict[str, Any] = {
    "RULES": [{"when": '"x-queue" in request.headers', "queue": "bulk"}],
    "QUEUES": {"bulk": {"retry_backoff": 0}},
    "LEASE": 4,
    "REPUBLISH_AFTER": 2,
    "REAPER_INTERVAL": 0.2,
}

if "NEIGHBOUR" in os.environ:
    ROOT_URLCONF = f"tests.neighbours.projects.{os.environ['NEIGHBOUR']}"
    INSTALLED_APPS, MIDDLEWARE = [*SITE_APPS, "tests.neighbours.shop"], SITE_MIDDLEWARE
    REQUEST_BROKER["PREFIX"] = os.environ["PREFIX"]
    globals().update(import_module(f"{ROOT_URLCONF}_settings").SETTINGS)
