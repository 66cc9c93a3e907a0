from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured
from django.db.models import signals
from django.utils.translation import gettext_lazy as _

from broker_django.shadowing import require_own


class BrokerConfig(AppConfig):
    name = "broker_django"
    label = "broker_django"
    verbose_name = _("Request broker")
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: Any) -> None:
        require_own("broker_core")
        super().__init__(app_name, app_module)

    def ready(self) -> None:
        if not apps.is_installed("django_celery_results"):
            raise ImproperlyConfigured('Add "django_celery_results" to INSTALLED_APPS: the request broker needs it.')
        from broker_django import checks, models  # noqa: F401, PLC0415 - models are loaded first; checks register themselves
        from broker_django.http import log_redaction  # noqa: PLC0415 - models are loaded first
        from broker_django.models import database  # noqa: PLC0415 - models are loaded first
        from broker_django.operations import sentry  # noqa: PLC0415 - models are loaded first
        from broker_django.routing import table  # noqa: PLC0415 - models are loaded first

        database.install_router()
        log_redaction.install_token_filter()
        sentry.watch_from_first_request()
        # Only for these two models: if a model has receivers, Django loads each row that it deletes.
        for changed in (signals.post_save, signals.post_delete, models.rows_changed):
            for model in (models.Router, models.Destination):
                changed.connect(table.rows_saved, sender=model, dispatch_uid="request_broker.table")
        signals.post_migrate.connect(table.after_migrate, sender=self, dispatch_uid="request_broker.table")
