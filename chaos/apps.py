"""Shortens intervals: here a deployment takes seconds."""

from django.apps import AppConfig


class ChaosConfig(AppConfig):
    name = "chaos"

    def ready(self) -> None:
        from broker_core import ledgers

        ledgers.LONGEST_HAND_BACK = 8.0
