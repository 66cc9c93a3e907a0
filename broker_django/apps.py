from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured
from django.db.models import signals
from django.utils.translation import gettext_lazy as _


class BrokerConfig(AppConfig):
    name = "broker_django"
    label = "broker_django"
    verbose_name = _("Request broker")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        if not apps.is_installed("django_celery_results"):
            raise ImproperlyConfigured('Add "django_celery_results" to INSTALLED_APPS: the request broker needs it.')
        from broker_django import checks, models  # noqa: F401, PLC0415 - which need the apps to be loaded
        from broker_django.http import log_redaction  # noqa: PLC0415 - which need the apps to be loaded
        from broker_django.models import database  # noqa: PLC0415 - which need the apps to be loaded
        from broker_django.operations import sentry  # noqa: PLC0415 - which need the apps to be loaded
        from broker_django.routing import table  # noqa: PLC0415 - which need the apps to be loaded

        database.install_router()
        log_redaction.keep_tokens_out()
        sentry.watch_from_first_request()
        # For these two models alone: Django loads all that it deletes of a model that has receivers.
        for changed in (signals.post_save, signals.post_delete, models.rows_changed):
            for model in (models.Router, models.Destination):
                changed.connect(table.rows_saved, sender=model, dispatch_uid="request_broker.table")
        signals.post_migrate.connect(table.after_migrate, sender=self, dispatch_uid="request_broker.table")
