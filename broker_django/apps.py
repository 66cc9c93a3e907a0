from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _


class BrokerConfig(AppConfig):
    name = "broker_django"
    label = "broker_django"
    verbose_name = _("Request broker")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        if not apps.is_installed("django_celery_results"):
            raise ImproperlyConfigured('Add "django_celery_results" to INSTALLED_APPS: the request broker needs it.')
        from broker_django import checks  # noqa: F401, PLC0415 - checks register themselves once the apps are loaded
