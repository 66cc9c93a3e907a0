"""The test site as separate processes see it: requests choose their queue by a header field."""

import os
from collections.abc import Iterable

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE, REQUEST_BROKER, SECRET_KEY

# Importing it would take a fifth of the start of each of some hundred processes.
INSTALLED_APPS = [app for app in INSTALLED_APPS if not app.startswith("rest_framework")]

CELERY_IMPORTS = ["tests.acceptance.tasks"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 20 * 1024 * 1024
DATABASES["default"]["CONN_MAX_AGE"] = int(os.environ.get("CONN_MAX_AGE", "0"))
if "DATABASE_POOL" in os.environ:
    DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": int(os.environ["DATABASE_POOL"])}}
if "REUSE_MAX" in os.environ:
    CELERY_DB_REUSE_MAX = int(os.environ["REUSE_MAX"])
SECRET_KEY = os.environ.get("SECRET_KEY", SECRET_KEY)
if "ACCEPT_CONTENT" in os.environ:
    CELERY_ACCEPT_CONTENT = [os.environ["ACCEPT_CONTENT"]]
    CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = os.environ["ACCEPT_CONTENT"]
ROOT_URLCONF = os.environ.get("URLCONF", "tests.acceptance.urls")
MIDDLEWARE = [*os.environ.get("OUTER_MIDDLEWARE", "").split(), *MIDDLEWARE]
SECURE_SSL_REDIRECT = "SSL_REDIRECT" in os.environ
if "NAIVE" in os.environ:
    USE_TZ, TIME_ZONE = False, "America/New_York"
if "TOUCH_SESSIONS" in os.environ:
    MIDDLEWARE.insert(-1, "tests.endpoints.projects.CountsVisits")
if "MEDIA" in os.environ:
    MEDIA_ROOT = os.environ["MEDIA"]


def by_header(queues: Iterable[str]) -> list[dict[str, str]]:
    """Rules that choose the queue by a header field."""
    return [
        {"when": f'"x-queue" in request.headers && request.headers["x-queue"] == "{name}"', "queue": name}
        for name in queues
    ]


REQUEST_BROKER = {
    **REQUEST_BROKER,
    "QUEUES": {
        "payment": {
            **REQUEST_BROKER["QUEUES"]["payment"],
            "reserve": int(os.environ.get("PAYMENT_RESERVE", "0")),
            "max_depth": int(os.environ["PAYMENT_DEPTH"]) if "PAYMENT_DEPTH" in os.environ else None,
        },
        "brief": {"time_limit": 1, "max_attempts": 2, "retry_backoff": 0},
        "bulk": {"retry_backoff": 0, "max_published": int(os.environ.get("BULK_PUBLISHED", "10000"))},
        "fleeting": {"expires": 1.5},
        "once": {"delivery": "at_most_once"},
        "stoppable": {"cancel_running": True},
        "bulk-eu": {},
        "bulk-us": {},
    },
    "RULES": by_header(
        ["payment", "realtime", "bulk", "fleeting", "bulk-eu", "bulk-us", "once", "stoppable"],
    ),
    "PREFIX": os.environ.get("PREFIX", ""),
    "LEASE": 4,
    "RESET_CONNECTIONS": os.environ.get("RESET_CONNECTIONS") != "0",
    "REPUBLISH_AFTER": 4,
    "REAPER_INTERVAL": 0.2,
    **{name: int(os.environ[name]) for name in ("MAX_HELD", "MAX_HELD_THREADS") if name in os.environ},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {name: {"handlers": ["console"], "level": "INFO"} for name in ("broker_django", "workers")},
}
