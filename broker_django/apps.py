from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BrokerConfig(AppConfig):
    name = "broker_django"
    label = "broker_django"
    verbose_name = _("Request broker")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from broker_django import checks  # noqa: F401, PLC0415 - checks register themselves once the apps are loaded
