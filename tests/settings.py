"""A small project around the broker, on SQLite unless the environment names a PostgreSQL or MariaDB server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE_DIR = Path(__file__).resolve().parent


def database(environ: Mapping[str, str]) -> dict[str, object]:
    if environ.get("POSTGRES_HOST"):
        return {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": environ["POSTGRES_HOST"],
            "PORT": environ.get("POSTGRES_PORT", "5432"),
            "NAME": environ.get("POSTGRES_DB", "broker"),
            "USER": environ.get("POSTGRES_USER", "broker"),
            "PASSWORD": environ.get("POSTGRES_PASSWORD", ""),
        }
    if environ.get("MYSQL_HOST"):
        return {
            "ENGINE": "django.db.backends.mysql",
            "HOST": environ["MYSQL_HOST"],
            "PORT": environ.get("MYSQL_PORT", "3306"),
            "NAME": environ.get("MYSQL_DATABASE", "broker"),
            "USER": environ.get("MYSQL_USER", "broker"),
            "PASSWORD": environ.get("MYSQL_PASSWORD", ""),
        }
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": environ.get("DATABASE_PATH", str(BASE_DIR / "tests.sqlite3")),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }


SECRET_KEY = "tests-only-" + "k" * 40
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "German")]
ROOT_URLCONF = "tests.site.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "rest_framework",
    "rest_framework.authtoken",
    "django_celery_results",
    "broker_django",
    "tests.site",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "broker_django.middleware.RequestBrokerMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ]
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

DATABASES: dict[str, dict[str, object]] = {"default": database(os.environ)}

CELERY_BROKER_URL = os.environ.get("BROKER_URL", "redis://127.0.0.1:1/0")
CELERY_TASK_ALWAYS_EAGER = os.environ.get("EAGER", "1") == "1"
if "RESULT_BACKEND" in os.environ:
    CELERY_RESULT_BACKEND = os.environ["RESULT_BACKEND"]

REQUEST_BROKER = {"QUEUES": {"payment": {"wait": float(os.environ.get("PAYMENT_WAIT", "0"))}}}
