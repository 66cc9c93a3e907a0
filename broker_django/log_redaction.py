"""What projects with loggers of their own import: a text without the tokens in it."""

from broker_django.http.log_redaction import without_tokens

__all__ = ["without_tokens"]
