"""Public import path for projects with OpenTelemetry: a response hook that removes tokens from recorded fields."""

from broker_django.messaging.tracing import hide_tokens_in

__all__ = ["hide_tokens_in"]
