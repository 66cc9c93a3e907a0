"""The project's ASGI application with the static files that `runserver` serves, for `broker_dev --asgi`."""

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.utils.module_loading import import_string

application = ASGIStaticFilesHandler(import_string(getattr(settings, "ASGI_APPLICATION", "")))
