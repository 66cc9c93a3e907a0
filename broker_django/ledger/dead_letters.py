"""Dead letters: what failed for good, or expired, is listed by its error, run again or discarded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Count, Max, Min, Q
from django.utils import timezone

from broker_core.dispatches import REVIVABLE, State
from broker_core.redaction import printable
from broker_django import ledger
from broker_django.ledger import bodies
from broker_django.messaging.notifications import announce
from broker_django.models import ActionRecord, AttemptRecord, DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from uuid import UUID

    from django.db.models import QuerySet

logger = logging.getLogger("broker_django.ledger.dead_letters")

CHUNK = 500


def are_dead_letters() -> Q:
    """What failed for good, or expired, and can be run again."""
    return Q(state__in=REVIVABLE) & (~Q(sealed=b"") | ~Q(sealed_file=""))


def dead_letters() -> QuerySet[DispatchRecord]:
    """All of them, without their requests."""
    return ledger.rows().filter(are_dead_letters()).defer("sealed", "kept_response")


def by_error(letters: QuerySet[DispatchRecord]) -> Any:
    """Groups with queue, state, error, count, and the moments first and last; the largest first."""
    groups = letters.order_by().values("queue", "state", "error")
    return groups.annotate(count=Count("pk"), first=Min("accepted_at"), last=Max("finished_at")).order_by("-count")


def run_again(letters: QuerySet[DispatchRecord], actor: str) -> int:
    """Have each of them run again, under its id, as the reaper comes to it: how many there were."""
    return sum(revive(pk, actor) for pk in _each(letters))


def discard(letters: QuerySet[DispatchRecord], actor: str) -> int:
    """Drop their requests, so that they can never run again: how many there were."""
    return sum(discard_one(pk, actor) for pk in _each(letters))


def _each(letters: QuerySet[DispatchRecord]) -> Iterator[UUID]:
    """One after the other, read a chunk at a time."""
    keys = letters.filter(are_dead_letters()).order_by("pk").values_list("pk", flat=True)
    chunk = list(keys[:CHUNK])
    while chunk:
        yield from chunk
        chunk = list(keys.filter(pk__gt=chunk[-1])[:CHUNK])


def revive(dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:
    """Have a dead letter run again, under the same id, with all its attempts anew. False where it is none."""
    now = now or timezone.now()
    dead = ledger.rows().filter(are_dead_letters(), pk=dispatch_id)
    record = dead.defer("sealed", "kept_response").first()
    if record is None:
        return False
    with transaction.atomic(using=database.alias()):
        revived = dead.filter(attempts=record.attempts).update(
            state=State.QUEUED,
            attempts_before=record.attempts,
            due_at=now,
            published_at=None,
            expires_at=_wanted_for(record, now),
            finished_at=None,
            response_status=None,
            response_type="",
            response_size=None,
            kept_response=None,
            error="",
        )
        if not revived:
            return False
        if record.attempts and record.started_at:
            AttemptRecord.objects.using(database.alias()).get_or_create(
                dispatch_id=record.pk,
                number=record.attempts,
                defaults={
                    "worker": record.worker,
                    "started_at": record.started_at,
                    "ended_at": record.finished_at or now,
                    "response_status": record.response_status,
                    "error": record.error,
                },
            )
        _note(record.pk, "retry", actor, record.error, now)
    announce(dispatch_id)
    return True


def _wanted_for(record: DispatchRecord, now: datetime) -> datetime | None:
    """As long as it was wanted at first."""
    return None if record.expires_at is None else now + (record.expires_at - record.accepted_at)


def discard_one(dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:
    """Drop the sealed request of a dead letter, so that it can never run again. False where it is none."""
    with transaction.atomic(using=database.alias()):
        dead = ledger.rows().filter(are_dead_letters(), pk=dispatch_id)
        files = list(dead.exclude(sealed_file="").values_list("sealed_file", flat=True))
        if not dead.update(sealed=b"", sealed_file=""):
            return False
        bodies.delete_on_commit(files)
        _note(dispatch_id, "discard", actor, "", now)
    return True


def _note(dispatch_id: UUID, action: str, actor: str, detail: str = "", now: datetime | None = None) -> None:
    """Write down who did what to a dispatch."""
    logger.info("Dispatch %s: %s by %s", dispatch_id, action, printable(actor), extra={"dispatch_id": str(dispatch_id)})
    ActionRecord.objects.using(database.alias()).create(
        dispatch_id=dispatch_id,
        at=now or timezone.now(),
        action=action,
        actor=actor[:255],
        detail=detail[: ledger.ERROR_LENGTH],
    )
