"""The site of the comparison: Django's usual middleware and more, a queue only if a header field asks for it."""

import os
from pathlib import Path

from csp.constants import NONCE, SELF

from tests.acceptance.settings import *  # noqa: F403
from tests.acceptance.settings import INSTALLED_APPS, REST_FRAMEWORK, TEMPLATES

HOME = Path(os.environ["COMPARISON"])

INSTALLED_APPS = [
    *INSTALLED_APPS,
    "rest_framework",
    "rest_framework.authtoken",
    "csp",
    "ninja",
    "tests.acceptance.comparison",
]
ROOT_URLCONF = "tests.acceptance.comparison.urls"
MIDDLEWARE = [
    "tests.acceptance.comparison.middleware.numbered",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "tests.acceptance.comparison.middleware.tenancy",
    "tests.acceptance.comparison.middleware.Domain",
    "broker_django.middleware.RequestBrokerMiddleware",
]
TEMPLATES = [
    {
        **TEMPLATES[0],
        "DIRS": [Path(__file__).with_name("templates")],
        "OPTIONS": {
            "context_processors": [
                *TEMPLATES[0]["OPTIONS"]["context_processors"],
                "django.template.context_processors.csrf",
                "django.template.context_processors.i18n",
                "django.template.context_processors.tz",
                "csp.context_processors.nonce",
            ]
        },
    }
]

ALLOWED_HOSTS = ["127.0.0.1", "localhost", ".shop.example"]
USE_X_FORWARDED_HOST = True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_HSTS_SECONDS = 3600
CSRF_TRUSTED_ORIGINS = ["https://www.shop.example"]
LANGUAGES = [("en", "English"), ("de", "German"), ("pt-br", "Brazilian Portuguese"), ("ar", "Arabic")]
LOGIN_URL = "/log-in-page/"
CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": [SELF], "script-src": [SELF, NONCE]}}
CONTENT_SECURITY_POLICY_REPORT_ONLY = {"DIRECTIVES": {"img-src": [SELF]}}

REST_FRAMEWORK = {**REST_FRAMEWORK, "DEFAULT_THROTTLE_RATES": {"twice": "2/day"}}

MEDIA_ROOT = HOME / "media"
FILE_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = HOME / "mails"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": HOME / "cache"}}
