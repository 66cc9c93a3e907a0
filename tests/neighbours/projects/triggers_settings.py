from tests.neighbours.settings import OURS, SITE_APPS
from tests.settings import MIDDLEWARE

SETTINGS = {
    "INSTALLED_APPS": [*SITE_APPS, "pgtrigger", "pghistory", "tests.neighbours.tracked"],
    "MIDDLEWARE": [*MIDDLEWARE[:-1], "pghistory.middleware.HistoryMiddleware", OURS],
}
