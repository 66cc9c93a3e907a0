"""Dead letters: what failed for good, or expired, is listed by its error, run again or discarded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.db.models import Count, Max, Min

from broker_django import ledger, results
from broker_django.models import DispatchRecord
from broker_django.notifications import announce

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from django.db.models import QuerySet

logger = logging.getLogger("broker_django.dead_letters")

CHUNK = 500


def dead_letters() -> QuerySet[DispatchRecord]:
    """All of them, without their requests."""
    return DispatchRecord.objects.filter(ledger.dead_letters()).defer("sealed", "kept_response")


def by_error(letters: QuerySet[DispatchRecord]) -> Any:
    """Groups with queue, state, error, count, and the moments first and last; the largest first."""
    groups = letters.order_by().values("queue", "state", "error")
    return groups.annotate(count=Count("pk"), first=Min("accepted_at"), last=Max("finished_at")).order_by("-count")


def run_again(letters: QuerySet[DispatchRecord], actor: str) -> int:
    """Have each of them run again, under its id, as the reaper comes to it: how many there were."""
    return sum(_revived(pk, actor) for pk in _each(letters))


def _revived(dispatch_id: UUID, actor: str) -> bool:
    results.forget([dispatch_id])  # before it runs again: a result store keeps the first response that it was given
    if not ledger.revive(dispatch_id, actor):
        return False
    announce(dispatch_id)
    return True


def discard(letters: QuerySet[DispatchRecord], actor: str) -> int:
    """Drop their requests, so that they can never run again: how many there were."""
    return sum(ledger.discard(pk, actor) for pk in _each(letters))


def _each(letters: QuerySet[DispatchRecord]) -> Iterator[UUID]:
    """One after the other, read a chunk at a time."""
    keys = letters.filter(ledger.dead_letters()).order_by("pk").values_list("pk", flat=True)
    chunk = list(keys[:CHUNK])
    while chunk:
        yield from chunk
        chunk = list(keys.filter(pk__gt=chunk[-1])[:CHUNK])
