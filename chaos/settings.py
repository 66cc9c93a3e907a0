"""The test site with three queues, leases that run out soon, and a log that tells the time."""

from chaos.verdict import AT_MOST_ONCE, BRIEF, QUEUES
from tests.acceptance.settings import *  # noqa: F403
from tests.acceptance.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE, by_header

INSTALLED_APPS = [*INSTALLED_APPS, "chaos"]
# The locale middleware sets the language of every request, and hides which one an earlier request left.
LOCALE = "django.middleware.locale.LocaleMiddleware"
MIDDLEWARE = ["chaos.middleware.note", *(name for name in MIDDLEWARE if name != LOCALE)]
ROOT_URLCONF = "chaos.urls"
TIME_ZONE = "UTC"

if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    DATABASES["default"]["OPTIONS"] = {"connect_timeout": 5}

_AGAIN = {"max_attempts": 20}
_ONCE = {"delivery": "at_most_once", "expires": None}

REQUEST_BROKER = {
    "QUEUES": {
        **{name: _ONCE if name in AT_MOST_ONCE else _AGAIN for name in QUEUES},
        BRIEF: {**_AGAIN, "time_limit": 1},
    },
    "RULES": by_header([*QUEUES, BRIEF]),
    "LEASE": 6,
    "REPUBLISH_AFTER": 6,
    "REAPER_INTERVAL": 0.5,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"timed": {"format": "[%(asctime)s: %(levelname)s/%(process)d] %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "timed"}},
    "loggers": {
        name: {"handlers": ["console"], "level": "INFO", "propagate": False} for name in ("broker_django", "workers")
    },
}
