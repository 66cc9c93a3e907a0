"""The board on the front page: what the broker's ledger knows about each queue."""

from datetime import datetime
from typing import Any

from django.db.models import F
from django.utils import timezone

from broker_core.dispatches import Dispatch, Selection
from broker_django.ledger import ledger

from .models import Tally

QUEUES = ("payment", "realtime", "bulk")
LATEST = 5
MOST = 1000
"""How many dispatches one look-up may return."""


def lanes() -> dict[str, dict[str, Any]]:
    """For each queue: how many dispatches are queued, running and done, and the latest ones that were started."""
    done = dict(Tally.objects.values_list("queue", "done"))
    return {name: lane(name, done.get(name, 0)) for name in QUEUES}


def lane(name: str, done: int) -> dict[str, Any]:
    running = ledger.select(Selection(queue=name, state="running"), MOST)
    return {
        "queued": ledger.depth(name),
        "running": len(running),
        "done": done,
        "oldest_wait_ms": milliseconds(ledger.oldest(name), timezone.now()),
        "latest": latest([*running, *ended(name, "succeeded"), *ended(name, "failed")]),
    }


def ended(name: str, state: str) -> list[Dispatch]:
    return ledger.select(Selection(queue=name, state=state), LATEST)


def latest(dispatches: list[Dispatch]) -> list[dict[str, Any]]:
    started = [each for each in dispatches if each.started_at]
    return [
        {
            "id": str(each.id),
            "state": each.state,
            "request": f"{each.method} {each.path}",
            "wait_ms": milliseconds(each.accepted_at, each.started_at),
            "run_ms": milliseconds(each.started_at, each.finished_at),
        }
        for each in sorted(started, key=lambda each: each.started_at, reverse=True)[:LATEST]
    ]


def overtaken(payment: Dispatch) -> int:
    """Returns how many bulk dispatches were accepted before this payment but started after it was finished."""
    finished_at = payment.finished_at or timezone.now()
    earlier = ledger.select(Selection(queue="bulk", accepted_before=payment.accepted_at), MOST)
    return sum(each.started_at > finished_at if each.started_at else not each.finished_at for each in earlier)


def count_done(dispatch: Dispatch, **_: Any) -> None:
    """Receives `dispatch_finished`."""
    Tally.objects.filter(queue=dispatch.queue).update(done=F("done") + 1)


def milliseconds(start: datetime | None, end: datetime | None) -> int | None:
    return round((end - start).total_seconds() * 1000) if start and end else None
