from django.db import models


class Note(models.Model):
    """What a view wrote."""

    text = models.CharField(max_length=200)

    class Meta:
        app_label = "comparison"  # the tests read the table of shapes without the site's settings

    def __str__(self) -> str:
        return self.text
