"""Dead letters: failed and expired dispatches, which operators list by error, run again or discard."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Count, Max, Min, Q
from django.utils import timezone

from broker_core.dispatches import ERROR_LENGTH, REVIVABLE, DeadLetters, State
from broker_core.dispatches.events import Kind
from broker_core.dispatches.transitions import wanted_until
from broker_core.redaction import printable
from broker_django.ledger import bodies
from broker_django.ledger.due import last_wanted
from broker_django.ledger.rows import emit, first, rows, selected, when_committed
from broker_django.models import ActionRecord, AttemptRecord, DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from uuid import UUID

    from django.db.models import QuerySet

    from broker_core.dispatches import Dispatch, Selection
    from broker_core.dispatches.events import Events

logger = logging.getLogger("broker_django.ledger.dead_letters")

CHUNK = 500


def are_dead_letters() -> Q:
    """Matches failed and expired dispatches that can run again."""
    return Q(state__in=REVIVABLE) & (~Q(sealed=b"") | ~Q(sealed_file=""))


def by_error(letters: QuerySet[DispatchRecord]) -> list[DeadLetters]:
    """Returns the groups, the largest first."""
    groups = letters.order_by().values("queue", "state", "error")
    counted = groups.annotate(count=Count("pk"), first=Min("accepted_at"), last=Max("finished_at")).order_by("-count")
    return [DeadLetters(**group) for group in counted]


class DeadLetterBox:
    """A part of `DatabaseLedger`."""

    events: Events

    def dead_letters(self, selection: Selection) -> Iterator[UUID]:
        """Reads the ids in chunks."""
        keys = _dead(selection).order_by("pk").values_list("pk", flat=True)
        chunk = list(keys[:CHUNK])
        while chunk:
            yield from chunk
            chunk = list(keys.filter(pk__gt=chunk[-1])[:CHUNK])

    def count_dead_letters(self, selection: Selection) -> int:
        return _dead(selection).count()

    def dead_letters_by_error(self, selection: Selection) -> list[DeadLetters]:
        return by_error(_dead(selection))

    def revive(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:
        now = now or timezone.now()
        dead = rows().filter(are_dead_letters(), pk=dispatch_id)
        dispatch = first(are_dead_letters(), pk=dispatch_id)
        if dispatch is None:
            return False
        with transaction.atomic(using=database.alias()):
            changes: dict[str, Any] = {
                "state": State.QUEUED,
                "attempts_before": dispatch.attempts,
                "due_at": now,
                "published_at": None,
                "expires_at": wanted_until(dispatch, last_wanted(dispatch), now),
                "finished_at": None,
                "response_status": None,
                "response_type": "",
                "response_size": None,
                "error": "",
            }
            if not dead.filter(attempts=dispatch.attempts).update(kept_response=None, **changes):
                return False
            _end_last_attempt(dispatch, now)
            _record_action(dispatch_id, "retry", actor, dispatch.error, now)
            revived = replace(dispatch, keeps_response=False, **changes)
            emit(self.events, Kind.REVIVED, dispatch_id, dispatch.attempts, revived)
        return True

    def discard(self, dispatch_id: UUID, actor: str, now: datetime | None = None) -> bool:
        with transaction.atomic(using=database.alias()):
            dead = rows().filter(are_dead_letters(), pk=dispatch_id)
            files = list(dead.exclude(sealed_file="").values_list("sealed_file", flat=True))
            if not dead.update(sealed=b"", sealed_file=""):
                return False
            when_committed(partial(bodies.delete, files))
            _record_action(dispatch_id, "discard", actor, "", now)
        return True


def _dead(selection: Selection) -> QuerySet[DispatchRecord]:
    return rows().filter(are_dead_letters(), selected(selection))


def _end_last_attempt(dispatch: Dispatch, now: datetime) -> None:
    if dispatch.attempts and dispatch.started_at:
        AttemptRecord.objects.using(database.alias()).get_or_create(
            dispatch_id=dispatch.id,
            number=dispatch.attempts,
            defaults={
                "worker": dispatch.worker,
                "started_at": dispatch.started_at,
                "ended_at": dispatch.finished_at or now,
                "response_status": dispatch.response_status,
                "error": dispatch.error,
            },
        )


def _record_action(dispatch_id: UUID, action: str, actor: str, detail: str = "", now: datetime | None = None) -> None:
    logger.info("Dispatch %s: %s by %s", dispatch_id, action, printable(actor), extra={"dispatch_id": str(dispatch_id)})
    ActionRecord.objects.using(database.alias()).create(
        dispatch_id=dispatch_id,
        at=now or timezone.now(),
        action=action,
        actor=actor[:255],
        detail=detail[:ERROR_LENGTH],
    )
