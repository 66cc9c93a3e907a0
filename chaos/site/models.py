"""Written by a trigger on the ledger."""

from django.db import models


class Ending(models.Model):
    """A dispatch reached a final state."""

    dispatch = models.CharField(max_length=40)
    state = models.CharField(max_length=10)

    def __str__(self) -> str:
        return f"{self.dispatch} {self.state}"
