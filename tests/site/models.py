from django.db import models


class Execution(models.Model):
    """A view ran."""

    dispatch = models.CharField(max_length=40, blank=True)
    worker = models.CharField(max_length=200, blank=True)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.dispatch} at {self.at}"
