"""Moments as Django has them: aware of their time zone, or naive and local where USE_TZ is False."""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.utils import timezone


def moment(timestamp: float) -> datetime:
    """What `django.utils.timezone.now()` says at this time, which is in seconds since the epoch."""
    return datetime.fromtimestamp(timestamp, UTC if settings.USE_TZ else None)


def as_text(at: datetime) -> str:
    """RFC 3339, in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def in_local_time(at: datetime, precision: str) -> str:
    """For people, in the current time zone of Django; `precision` is that of `datetime.isoformat`."""
    return (timezone.localtime(at) if timezone.is_aware(at) else at).isoformat(" ", precision)
