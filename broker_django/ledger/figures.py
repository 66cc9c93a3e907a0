"""Figures for operators and metrics from the ledger on the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import Count, Max, Min, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce

from broker_core.dispatches import NOT_REACHED, Group, State
from broker_django.ledger.rows import dispatches, rows, selected
from broker_django.models import AttemptRecord, DispatchRecord, database

if TYPE_CHECKING:
    from datetime import datetime

    from django.db.models import QuerySet

    from broker_core.dispatches import Dispatch, Selection


class Figures:
    """A part of `DatabaseLedger`."""

    def count(self) -> int:
        return rows().count()

    def select(self, selection: Selection, most: int) -> list[Dispatch]:
        return dispatches(rows().filter(selected(selection)).order_by("-accepted_at")[:most])

    def depth(self, queue: str, most: int | None = None) -> int:
        return _waiting(queue).order_by("accepted_at").values_list("accepted_at")[:most].count()

    def oldest(self, queue: str) -> datetime | None:
        return _accepted_at(_waiting(queue).filter(attempts=0).order_by("accepted_at"))

    def newest(self, queue: str) -> datetime | None:
        return _accepted_at(_waiting(queue).order_by("-accepted_at"))

    def arrivals(self, queue: str, since: datetime, until: datetime) -> int:
        return rows().filter(queue=queue, accepted_at__gt=since, accepted_at__lte=until).count()

    def latest_seal(self) -> str:
        return rows().order_by("-accepted_at").values_list("sealed_with", flat=True).first() or ""

    def late(self, before: datetime) -> list[Group]:
        due = Q(due_at=None) | Q(due_at__lt=before)
        late = _with_last_error().filter(due, accepted_at__lt=before).exclude(last_error__startswith=NOT_REACHED)
        return _groups(late, "queue", "accepted_at")

    def handed_back(self) -> list[Group]:
        handed_back = _with_last_error().filter(attempts__gt=0, last_error__startswith=NOT_REACHED)
        return _groups(handed_back, "queue", "accepted_at", error=Max("last_error"))

    def overdue(self, now: datetime) -> list[Group]:
        return _groups(rows().filter(state=State.RUNNING, due_at__lte=now), "worker", "due_at")

    def at_work(self, now: datetime) -> set[tuple[str, str]]:
        leased = rows().filter(state=State.RUNNING, due_at__gt=now)
        return set(leased.order_by().values_list("worker", "queue").distinct())


def _waiting(queue: str) -> QuerySet[DispatchRecord]:
    return rows().filter(state=State.QUEUED, queue=queue)


def _accepted_at(found: QuerySet[DispatchRecord]) -> datetime | None:
    return found.values_list("accepted_at", flat=True).first()


def _with_last_error() -> Any:
    """Queued dispatches with the error of their last attempt."""
    attempts = AttemptRecord.objects.using(database.alias())
    last = attempts.filter(dispatch=OuterRef("pk"), number=OuterRef("attempts")).values("error")
    return rows().filter(state=State.QUEUED).annotate(last_error=Coalesce(Subquery(last[:1]), Value("")))


def _groups(found: QuerySet[DispatchRecord], key: str, since: str, **also: Any) -> list[Group]:
    groups = found.order_by().values(key).annotate(count=Count("pk"), oldest=Min(since), **also).order_by(key)
    return [Group(group[key], group["count"], group["oldest"], group.get("error", "")) for group in groups]
