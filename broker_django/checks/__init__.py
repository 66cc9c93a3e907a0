"""System checks: `manage.py check` reports what would fail at run time."""

from broker_django.checks import celery, databases, settings, storages, tenants, urls

__all__ = ["celery", "databases", "settings", "storages", "tenants", "urls"]
