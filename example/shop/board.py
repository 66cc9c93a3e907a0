"""The board on the front page: counts from the broker's ledger."""

from datetime import datetime
from typing import Any

from django.db.models import Count, Min, Q
from django.utils import timezone

from broker_django.models import DispatchRecord

QUEUES = ("payment", "realtime", "bulk")
UNFINISHED = ("queued", "running")
LATEST = 5


def lanes() -> dict[str, dict[str, Any]]:
    """For each queue: how many dispatches are queued, running and done, and the latest ones that were started."""
    states = DispatchRecord.objects.filter(queue__in=QUEUES).values("queue", "state")
    counted = list(states.annotate(count=Count("id"), oldest=Min("accepted_at")).order_by())
    return {name: lane(name, [row for row in counted if row["queue"] == name]) for name in QUEUES}


def lane(name: str, counted: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {row["state"]: row["count"] for row in counted}
    oldest = {row["state"]: row["oldest"] for row in counted}
    return {
        "queued": counts.get("queued", 0),
        "running": counts.get("running", 0),
        "done": sum(count for state, count in counts.items() if state not in UNFINISHED),
        "oldest_wait_ms": milliseconds(oldest.get("queued"), timezone.now()),
        "latest": latest(name),
    }


def latest(name: str) -> list[dict[str, Any]]:
    started = DispatchRecord.objects.filter(queue=name, started_at__isnull=False).order_by("-started_at")[:LATEST]
    return [
        {
            "id": str(record.id),
            "state": record.state,
            "request": f"{record.method} {record.path}",
            "wait_ms": milliseconds(record.accepted_at, record.started_at),
            "run_ms": milliseconds(record.started_at, record.finished_at),
        }
        for record in started
    ]


def overtaken(payment: DispatchRecord) -> int:
    """Returns how many bulk dispatches were accepted before this payment but started after it was finished."""
    finished_at = payment.finished_at or timezone.now()
    earlier = DispatchRecord.objects.filter(queue="bulk", accepted_at__lt=payment.accepted_at)
    still_waiting = Q(started_at=None, finished_at=None) | Q(started_at__gt=finished_at)
    return earlier.filter(still_waiting).count()


def milliseconds(start: datetime | None, end: datetime | None) -> int | None:
    return round((end - start).total_seconds() * 1000) if start and end else None
