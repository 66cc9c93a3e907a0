"""The Celery result backend, by the name that settings have."""

from broker_django.ledger.results import DatabaseBackend

__all__ = ["DatabaseBackend"]
