"""Settings of the example shop. Values that differ between machines are read from the environment."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent


def env_flag(name: str, *, default: bool) -> bool:
    value = os.environ.get(name)
    return default if value is None else value.strip().lower() in {"1", "true", "yes", "on"}


def secret_key(*, debug: bool) -> str:
    key = os.environ.get("SECRET_KEY", "")
    if not key and not debug:
        raise ImproperlyConfigured("Set SECRET_KEY: the example only has a default for it if DEBUG is on.")
    return key or "only-for-development-0f1c9f2e7a5b4d3c8e6a"


DEBUG = env_flag("DEBUG", default=True)
SECRET_KEY = secret_key(debug=DEBUG)
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *os.environ.get("ALLOWED_HOSTS", "").replace(",", " ").split()]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_celery_results",
    "broker_django",
    "shop",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "broker_django.middleware.RequestBrokerMiddleware",
]

ROOT_URLCONF = "shop_site.urls"
WSGI_APPLICATION = "shop_site.wsgi.application"
ASGI_APPLICATION = "shop_site.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": os.environ.get("DATABASE_PATH", BASE_DIR / "db.sqlite3"),
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    },
}
POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": os.environ.get("POSTGRES_HOST", ""),
    "PORT": os.environ.get("POSTGRES_PORT", "5432"),
    "NAME": os.environ.get("POSTGRES_DB", "shop"),
    "USER": os.environ.get("POSTGRES_USER", "shop"),
    "PASSWORD": os.environ.get("POSTGRES_PASSWORD", ""),
}
DATABASES = {"default": POSTGRESQL if POSTGRESQL["HOST"] else SQLITE}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
STATIC_URL = "static/"
MEDIA_ROOT = os.environ.get("MEDIA_ROOT", BASE_DIR / "media")

# Mails are rendered, encoded and recorded; the dummy backend only skips the mail server.
EMAIL_BACKEND = os.environ.get("EMAIL_BACKEND", "django.core.mail.backends.dummy.EmailBackend")
DEFAULT_FROM_EMAIL = "Leaf & Kettle <post@leaf-and-kettle.example>"

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")
CELERY_WORKER_SEND_TASK_EVENTS = True

REQUEST_BROKER = {
    "QUEUES": {"bulk-eu": {}, "bulk-us": {}},  # worker pools, for a router to distribute requests over
    "RULES": [
        {"when": 'request.path.startsWith("/webhooks/")', "queue": "payment"},
        {"when": 'request.method == "POST" && request.size > 1000000', "queue": "bulk"},
    ],
}

FLOWER_URL = os.environ.get("FLOWER_URL", "")
