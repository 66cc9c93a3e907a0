"""The ledger on the database: every accepted request is a row before it is published.

A transition is one compare-and-set UPDATE: of two workers that were handed the same dispatch, one claims it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db.models import F, Q
from django.utils import timezone

from broker_core.dispatches import State, sources
from broker_core.errors import DispatchConflictError
from broker_django import statements
from broker_django.conf import conf
from broker_django.models import PATH_LENGTH, DispatchRecord

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from broker_core.policies import QueuePolicy

LEASE_MARGIN = timedelta(seconds=30)
"""How much longer than its time limit a replay holds its claim: the time to stop it and to store its outcome."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a replay ended. `status` is None where there is no response; `error` is empty for a success."""

    status: int | None = None
    content_type: str = ""
    size: int = 0
    error: str = ""

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Outcome:
        """The outcome that a replay's result tells of."""
        return cls(result["status"], result["content_type"], result["size"], result["error"])

    @property
    def state(self) -> State:
        return State.FAILED if self.error else State.SUCCEEDED


def accept(record: DispatchRecord) -> None:
    statements.insert(record)


def claim(dispatch_id: uuid.UUID, policy: QueuePolicy, worker: str, now: datetime | None = None) -> int:
    """Take the dispatch to run it: the number of this attempt, or 0 where it is not to be had.

    It is there while queued and wanted, and again when the lease of a worker that vanished ran out.
    """
    now = now or timezone.now()
    claimed = {
        "state": State.RUNNING.value,
        "worker": worker[:255],
        "started_at": now,
        "lease_until": now + timedelta(seconds=policy.time_limit) + LEASE_MARGIN,
    }
    fresh = {"id": dispatch_id, "state": State.QUEUED.value, "attempts": 0}
    if statements.update(DispatchRecord, {**claimed, "attempts": 1}, fresh, wanted_at=now):
        return 1
    row = DispatchRecord.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now), pk=dispatch_id)
    free = Q(state=State.QUEUED) | Q(state=State.RUNNING, lease_until__lte=now)
    if not row.filter(free, attempts__lt=policy.max_attempts).update(attempts=F("attempts") + 1, **claimed):
        return 0
    return row.values_list("attempts", flat=True).get()


def finish(dispatch_id: uuid.UUID, attempt: int, outcome: Outcome, now: datetime | None = None) -> bool:
    """Record how this attempt ended. False where another attempt has the dispatch by now."""
    ended = {
        "state": outcome.state.value,
        "finished_at": now or timezone.now(),
        "lease_until": None,
        "response_status": outcome.status,
        "response_type": outcome.content_type[:255],
        "response_size": outcome.size if outcome.status is not None else None,
        "error": outcome.error[:500],
    }
    running = {"id": dispatch_id, "state": State.RUNNING.value, "attempts": attempt}
    return statements.update(DispatchRecord, ended, running)


def give_up(dispatch_id: uuid.UUID, error: str, now: datetime | None = None) -> bool:
    """Record that what runs will not be answered, while its lease lasts. False where it does not run any more."""
    now = now or timezone.now()
    running = DispatchRecord.objects.filter(pk=dispatch_id, state=State.RUNNING, lease_until__gt=now)
    return bool(running.update(state=State.FAILED, finished_at=now, lease_until=None, error=error[:500]))


def release(dispatch_id: uuid.UUID, now: datetime | None = None) -> None:
    """The process that ran the dispatch was lost: let it be claimed again, or fail it where it has no attempt left."""
    record = DispatchRecord.objects.defer("sealed").filter(pk=dispatch_id, state=State.RUNNING).first()
    policy = conf.queues.get(record.queue) if record else None
    if record is None:
        return
    if policy is None or record.attempts >= policy.max_attempts:
        give_up(dispatch_id, "the worker process was lost", now)
        return
    DispatchRecord.objects.filter(pk=dispatch_id, state=State.RUNNING, attempts=record.attempts).update(
        state=State.QUEUED, lease_until=None
    )


def cancel(dispatch_id: uuid.UUID, now: datetime | None = None) -> None:
    """Cancel what has not begun; once cancelled it stays so. Raises DispatchConflictError for any other state."""
    if _end(dispatch_id, State.CANCELLED, now or timezone.now()):
        return
    state = DispatchRecord.objects.values_list("state", flat=True).filter(pk=dispatch_id).first()
    if state != State.CANCELLED:
        raise DispatchConflictError(f"the dispatch is {state}")


def expire(dispatch_id: uuid.UUID, now: datetime | None = None) -> bool:
    """Mark as expired what nobody waits for any more."""
    now = now or timezone.now()
    return _end(dispatch_id, State.EXPIRED, now, Q(expires_at__lte=now))


def _end(dispatch_id: uuid.UUID, state: State, now: datetime, *conditions: Q) -> bool:
    waiting = DispatchRecord.objects.filter(*conditions, pk=dispatch_id, state__in=sources(state))
    return bool(waiting.update(state=state, finished_at=now))


def find(dispatch_id: uuid.UUID) -> DispatchRecord | None:
    """The dispatch without its sealed request; one whose time is over is expired by being looked at."""
    record = DispatchRecord.objects.defer("sealed").filter(pk=dispatch_id).first()
    if record and record.state == State.QUEUED and record.expires_at and record.expires_at <= timezone.now():
        expire(dispatch_id)
        record.refresh_from_db(fields=["state", "finished_at", "started_at", "attempts"])
    return record


def truncated(path: str) -> str:
    """The path as far as the ledger keeps it."""
    return path if len(path) <= PATH_LENGTH else path[: PATH_LENGTH - 1] + "…"
