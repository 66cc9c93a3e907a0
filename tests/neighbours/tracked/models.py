"""Rows whose changes PostgreSQL keeps, by the triggers of django-pghistory."""

import pghistory
from django.db import models


@pghistory.track()
class Parcel(models.Model):
    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name
