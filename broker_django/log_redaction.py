"""Public import path for projects with their own loggers: removes tokens from a text."""

from broker_django.http.log_redaction import without_tokens

__all__ = ["without_tokens"]
