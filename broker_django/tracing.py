"""What projects with OpenTelemetry import: the response hook that keeps tokens out of captured header fields."""

from broker_django.messaging.tracing import hide_tokens_in

__all__ = ["hide_tokens_in"]
