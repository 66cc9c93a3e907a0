from __future__ import annotations

import os

APPS = os.environ["APPS"].split()
"""Of django.contrib, and others by their full names."""

SECRET_KEY = "tests-only-" + "k" * 40
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.bare.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE_PATH"]}}

INSTALLED_APPS = [
    *(app if "." in app else f"django.contrib.{app}" for app in APPS),
    "django_celery_results",
    "broker_django",
]
HAS_SESSIONS = "sessions" in APPS or "SESSION_ENGINE" in os.environ
SESSION_ENGINE = os.environ.get("SESSION_ENGINE", "django.contrib.sessions.backends.db")
if "sessions" not in APPS:
    MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    *(["django.contrib.sessions.middleware.SessionMiddleware"] if HAS_SESSIONS else []),
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    *(["django.contrib.auth.middleware.AuthenticationMiddleware"] if HAS_SESSIONS and "auth" in APPS else []),
    *(["django.contrib.messages.middleware.MessageMiddleware"] if "messages" in APPS else []),
    *os.environ.get("OWN_MIDDLEWARE", "").split(),
    "broker_django.middleware.RequestBrokerMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                *(["django.contrib.auth.context_processors.auth"] if "auth" in APPS else []),
                *(["django.contrib.messages.context_processors.messages"] if "messages" in APPS else []),
            ]
        },
    }
]
AUTH_USER_MODEL = os.environ.get("AUTH_USER_MODEL", "auth.User")
CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
CELERY_TASK_ALWAYS_EAGER = True
REQUEST_BROKER = {
    "RULES": [
        {"when": 'request.path.startsWith("/by-rule/") && !user.is_authenticated', "queue": "bulk"},
        {"when": '"staff" in user.groups || user.username == "root"', "queue": "bulk"},
    ]
}
