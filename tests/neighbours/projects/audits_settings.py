import os

from tests.neighbours.settings import OURS, SITE_APPS
from tests.settings import MIDDLEWARE, database

SETTINGS = {
    "INSTALLED_APPS": [*SITE_APPS, "auditlog", "simple_history", "reversion", "tests.neighbours.shop"],
    "MIDDLEWARE": [*MIDDLEWARE[:-1], *os.environ["AROUND"].split(), OURS],
    "DATABASES": {"default": {**database(os.environ), "ATOMIC_REQUESTS": "ATOMIC" in os.environ}},
}
