from django.apps import AppConfig
from django.db.models.signals import post_migrate

from broker_django.signals import dispatch_finished

from .seed import seed


class ShopConfig(AppConfig):
    name = "shop"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .board import count_done  # noqa: PLC0415 - its models are loaded by now

        post_migrate.connect(seed, sender=self)
        dispatch_finished.connect(count_done)
