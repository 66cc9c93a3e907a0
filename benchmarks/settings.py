"""One project, measured with and without the broker."""

from __future__ import annotations

import os
from importlib.util import find_spec

SECRET_KEY = "benchmarks-only-" + "k" * 40
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "benchmarks.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_celery_results",
    "broker_django",
]
if find_spec("django_route"):
    INSTALLED_APPS.append("django_route")

OTHER_MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
MIDDLEWARE = [*OTHER_MIDDLEWARE, "broker_django.middleware.RequestBrokerMiddleware"]
DJANGO_ROUTE_MIDDLEWARE = [*OTHER_MIDDLEWARE, "django_route.middlewares.RoutingRequestMiddleware"]

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE_PATH", ":memory:"),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }
}

LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}

CELERY_BROKER_URL = os.environ.get("BROKER_URL", "memory://")
CELERY_RESULT_BACKEND = os.environ.get("RESULT_BACKEND", "broker_django.results:DatabaseBackend")

RULES = [
    {"when": f'request.path.startsWith("/partners/{number}/") && request.method == "POST"', "queue": "bulk"}
    for number in range(10)
]
REQUEST_BROKER = {"RULES": RULES, "QUEUES": {"payment": {"reserve": 1}}}
