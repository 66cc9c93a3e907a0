"""Shortens intervals: here a deployment takes seconds."""

from django.apps import AppConfig


class ChaosConfig(AppConfig):
    name = "chaos.site"
    label = "chaos"

    def ready(self) -> None:
        from broker_core.dispatches import transitions

        transitions.LONGEST_HAND_BACK = 8.0
