"""Whether a failed attempt is retried, and after what pause."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_core.policies import QueuePolicy

TOO_MANY_REQUESTS = 429

LONGEST = 7 * 86_400.0
"""Seconds. If a view asks for a longer pause, the dispatch is not retried."""


def is_failure(status: int) -> bool:
    """Whether the same request may succeed later. Any other 4xx is a final response."""
    return status >= 500 or status == TOO_MANY_REQUESTS


def pause(
    policy: QueuePolicy,
    attempt: int,
    retry_after: float | None = None,
    uniform: Callable[[float, float], float] = random.uniform,
) -> float | None:
    """Returns the seconds until the next attempt, or None if no attempt follows. The first attempt is number 1.

    Exponential backoff with full jitter, as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), but
    never shorter than the view asked for.
    """
    if attempt >= policy.starts or (retry_after or 0) > LONGEST:
        return None
    longest = min(policy.retry_backoff * 2.0 ** min(attempt - 1, 63), policy.retry_backoff_max)
    return max(uniform(0, longest), retry_after or 0.0)


def parse_retry_after(field: str, now: datetime | None = None) -> float | None:
    """Returns the seconds in a Retry-After field (RFC 9110, section 10.2.3), or None if it is malformed."""
    text = field.strip()
    if text.isascii() and text.isdigit():
        return float(text[:18])
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0)
