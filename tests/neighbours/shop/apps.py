from django.apps import AppConfig, apps


class ShopConfig(AppConfig):
    name = "tests.neighbours.shop"

    def ready(self) -> None:
        order = self.get_model("Order")
        if apps.is_installed("auditlog"):
            from auditlog.registry import auditlog

            auditlog.register(order)
        if apps.is_installed("reversion"):
            import reversion

            reversion.register(order)
