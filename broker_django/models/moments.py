"""Datetimes as Django uses them: aware, or naive and local if USE_TZ is False."""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.utils import formats, timezone


def moment(timestamp: float) -> datetime:
    """Returns the datetime of this timestamp (seconds since the epoch), as `django.utils.timezone.now()` would return
    it.
    """
    return datetime.fromtimestamp(timestamp, UTC if settings.USE_TZ else None)


def as_text(at: datetime) -> str:
    """Returns an RFC 3339 timestamp in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def in_local_time(at: datetime, *, milliseconds: bool = False) -> str:
    """Returns a text for people: the date as in the active language, and the time to the second, in Django's current
    time zone.
    """
    local = timezone.localtime(at) if timezone.is_aware(at) else at
    fraction = f"{formats.get_format('DECIMAL_SEPARATOR')}{local.microsecond // 1000:03}" if milliseconds else ""
    return f"{formats.date_format(local, 'DATE_FORMAT')} {local:%H:%M:%S}{fraction}"
