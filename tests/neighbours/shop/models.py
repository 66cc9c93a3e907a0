"""Models for packages that record who wrote."""

from django.db import models
from simple_history.models import HistoricalRecords


class Order(models.Model):
    """Audited by django-auditlog, django-simple-history and django-reversion."""

    name = models.CharField(max_length=100)
    history = HistoricalRecords()

    def __str__(self) -> str:
        return self.name
