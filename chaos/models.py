"""What triggers note of the ledger."""

from django.db import models


class Ending(models.Model):
    """A dispatch came to a state that it should never leave."""

    dispatch = models.CharField(max_length=40)
    state = models.CharField(max_length=10)

    def __str__(self) -> str:
        return f"{self.dispatch} {self.state}"
