"""System checks: `manage.py check` reports what would fail at run time."""

from broker_django.checks import settings

__all__ = ["settings"]
