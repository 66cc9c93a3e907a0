"""What is due in the ledger on the database.

Each query uses the order of an index. Otherwise PostgreSQL may scan the whole ledger to find the first match. For the
same reason, some conditions repeat the condition of a partial index.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db.models import Exists, Max, OuterRef
from django.utils import timezone

from broker_core.dispatches import State
from broker_core.dispatches.transitions import A_FEW
from broker_django.conf import conf
from broker_django.ledger.rows import dispatches, rows, sealed_requests
from broker_django.models import ActionRecord, DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from uuid import UUID

    from django.db.models import QuerySet

    from broker_core.dispatches import Dispatch, SealedRequest


def queues(state: State) -> Iterator[str]:
    """Yields the queues one by one from the index: DISTINCT would read all rows."""
    named = rows().filter(state=state).order_by("queue").values_list("queue", flat=True)
    queue = named.first()
    while queue is not None:
        yield queue
        queue = named.filter(queue__gt=queue).first()


def last_wanted(dispatch: Dispatch) -> datetime:
    """Returns when the dispatch was accepted or last revived."""
    revivals = ActionRecord.objects.using(database.alias()).filter(dispatch=dispatch.id, action="retry")
    last: datetime | None = revivals.aggregate(last=Max("at"))["last"]
    return max(dispatch.accepted_at, last or dispatch.accepted_at)


def _to_publish(queue: str, now: datetime) -> QuerySet[DispatchRecord]:
    waiting = {"state": State.QUEUED, "queue": queue, "due_at__lte": now, "published_at": None, "finished_at": None}
    return rows().filter(**waiting).order_by("due_at")


class DueDispatches:
    """A part of `DatabaseLedger`."""

    def queues(self, state: State) -> Iterator[str]:
        return queues(state)

    def due_queues(self, now: datetime, most: int) -> set[str]:
        due = rows().filter(state=State.QUEUED, due_at__lte=now).order_by("due_at")
        return set(due.values_list("queue", flat=True)[:most])

    def to_publish(self, queue: str, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        return sealed_requests(_without(_to_publish(queue, now), skip)[:most])

    def published(self, queue: str, before: datetime, most: int, skip: Collection[UUID] = ()) -> list[SealedRequest]:
        waiting = {"state": State.QUEUED, "published_at__lte": before, "due_at": None, "finished_at": None}
        return sealed_requests(_without(rows().filter(queue=queue, **waiting), skip).order_by("published_at")[:most])

    def lapsed(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        overdue = rows().filter(state=State.RUNNING, due_at__lte=now)
        return dispatches(_without(overdue, skip).order_by("due_at")[:most])

    def unwanted(self, now: datetime, most: int, skip: Collection[UUID] = ()) -> list[Dispatch]:
        overdue = rows().filter(state=State.QUEUED, expires_at__lte=now, finished_at=None)
        return dispatches(_without(overdue, skip).order_by("expires_at")[:most])

    def forgotten(self, queue: str, before: datetime, most: int) -> list[UUID]:
        revivals = ActionRecord.objects.using(database.alias()).filter(
            dispatch=OuterRef("pk"), action="retry", at__gt=before
        )
        waiting = rows().filter(~Exists(revivals), state=State.QUEUED, queue=queue, accepted_at__lte=before)
        return list(waiting.order_by("accepted_at").values_list("pk", flat=True)[:most])

    def holds_up(self, queue: str, now: datetime | None = None) -> bool:
        late_since = (now or timezone.now()) - timedelta(seconds=2 * conf.REAPER_INTERVAL)
        return bool(_to_publish(queue, late_since).values_list("pk")[A_FEW : A_FEW + 1])

    def last_wanted(self, dispatch: Dispatch) -> datetime:
        return last_wanted(dispatch)

    def is_revived(self, dispatch_id: UUID) -> bool:
        return ActionRecord.objects.using(database.alias()).filter(dispatch=dispatch_id, action="retry").exists()


def _without(found: QuerySet[DispatchRecord], skip: Collection[UUID]) -> QuerySet[DispatchRecord]:
    return found.exclude(pk__in=list(skip))
