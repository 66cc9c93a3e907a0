from django.apps import AppConfig
from django.db.models.signals import post_migrate

from .seed import seed


class ShopConfig(AppConfig):
    name = "shop"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        post_migrate.connect(seed, sender=self)
