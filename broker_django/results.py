"""The Celery result backend, by the name that settings have."""

from broker_django.ledger.responses import DatabaseBackend

__all__ = ["DatabaseBackend"]
