"""The test site with three queues, short leases, and timestamps in the log."""

from chaos.verdict import AT_MOST_ONCE, BRIEF, QUEUES
from tests.acceptance.settings import *  # noqa: F403 - settings modules extend each other
from tests.acceptance.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE, by_header

INSTALLED_APPS = [*INSTALLED_APPS, "chaos.site"]
# The locale middleware sets the language of every request, which would hide the one that an earlier request left.
LOCALE = "django.middleware.locale.LocaleMiddleware"
MIDDLEWARE = ["chaos.site.middleware.record_acceptances", *(name for name in MIDDLEWARE if name != LOCALE)]
ROOT_URLCONF = "chaos.site.urls"
TIME_ZONE = "UTC"

if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    DATABASES["default"]["OPTIONS"] = {"connect_timeout": 5}

_MORE_THAN_ONCE = {"max_attempts": 20}
_AT_MOST_ONCE = {"delivery": "at_most_once", "expires": None}

REQUEST_BROKER = {
    "QUEUES": {
        **{name: _AT_MOST_ONCE if name in AT_MOST_ONCE else _MORE_THAN_ONCE for name in QUEUES},
        BRIEF: {**_MORE_THAN_ONCE, "time_limit": 1},
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
