"""The ledger on the database: every accepted request is a row before it is published.

A transition is one compare-and-set UPDATE: of two workers that were handed the same dispatch, one claims it.

`due_at` says when the reaper takes a row up. A queued one without it is on the message broker since `published_at`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import F, Max, Min, Q
from django.db.models.constants import OnConflict
from django.utils import timezone

from broker_core.dispatches import State, sources
from broker_core.errors import DispatchConflictError
from broker_core.retries import pause
from broker_django.conf import conf
from broker_django.ledger import statements
from broker_django.models import PATH_LENGTH, ActionRecord, AttemptRecord, DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from django.db.models import QuerySet

    from broker_core.policies import QueuePolicy

LEASE_MARGIN = timedelta(seconds=30)
"""For how much longer than its time limit a replay holds its lease: the time to stop it and to store its outcome."""

ERROR_LENGTH = 500

DEPLOYMENT = timedelta(minutes=15)
"""How old a dispatch is that no worker can be expected to run later. A younger one may have been accepted by a process
with newer code, keys or settings than this worker has.
"""

NOT_REACHED = "the view was not reached"
"""How the error of an attempt begins that did not come to its view."""
ELSEWHERE = f"{NOT_REACHED}: the URL leads"
"""The same, if the URL leads to another view, or to none."""

LONGEST_HAND_BACK = 60.0
"""Seconds until a dispatch that was handed back is published again: one at first, and twice as many each time."""

A_FEW = 10
"""How many dispatches may wait in the ledger for longer than the reapers need: somebody else may have locked a row."""

AT_ONCE = 500
"""How many rows one query names."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `status` is None where there is no response; `error` is empty for a success.

    retriable: whether another attempt may end otherwise, in `retry_after` seconds at the earliest.
    """

    status: int | None = None
    content_type: str = ""
    size: int = 0
    error: str = ""
    retriable: bool = False
    retry_after: float | None = None

    @property
    def state(self) -> State:
        return State.FAILED if self.error else State.SUCCEEDED


def rows() -> QuerySet[DispatchRecord]:
    """Where the ledger is written: a replica may not know yet what was decided."""
    return DispatchRecord.objects.using(database.alias())


def accept(record: DispatchRecord) -> None:
    statements.insert(record)


def accept_once(record: DispatchRecord) -> DispatchRecord:
    """Accept a dispatch that has an Idempotency-Key: what the ledger has for the key then, this or an earlier one.

    Of several at once, in any number of processes, the database lets one in. A transaction around it goes on.
    """
    if not statements.insert(record, OnConflict.IGNORE):
        earlier = find_by_key(record.idempotency_key or "")
        if earlier is not None:
            return earlier
        accept(record)  # the earlier one was deleted meanwhile
    return record


def put_off(dispatch_id: uuid.UUID, until: datetime, due_at: datetime | None = None) -> None:
    """Let the reaper publish what the message broker did not take, where it is still due when it was seen to be."""
    unclaimed = rows().filter(pk=dispatch_id, state=State.QUEUED, due_at=due_at)
    unclaimed.update(published_at=None, due_at=until)


def take_up(record: DispatchRecord, now: datetime) -> bool:
    """Have a queued row to publish it, where it is still as it was seen: of two reapers, one has it."""
    seen = {"state": State.QUEUED, "due_at": record.due_at, "published_at": record.published_at}
    taken = rows().filter(pk=record.pk, attempts=record.attempts, **seen)
    if not taken.update(due_at=None, published_at=now):
        return False
    record.due_at, record.published_at = None, now
    return True


def claim(
    dispatch_id: uuid.UUID,
    policy: QueuePolicy,
    worker: str,
    now: datetime | None = None,
    *,
    first_asked: datetime | None = None,
) -> int:
    """Take the dispatch to run it: the number of this attempt, or 0 where it is not to be had.

    It is there while queued and wanted. One that waits in the ledger for another attempt is not. Asking again with the
    same `first_asked` finds the claim that was made, and holds it anew: its answer may have been lost on the way.
    """
    now = now or timezone.now()
    started_at, due_at = first_asked or now, now + lease()
    claimed = {"state": State.RUNNING.value, "worker": worker[:255], "started_at": started_at, "due_at": due_at}
    fresh = {"id": dispatch_id, "state": State.QUEUED.value, "attempts": 0}
    if statements.update(DispatchRecord, {**claimed, "attempts": 1}, fresh, wanted_at=now):
        return 1
    row = rows().filter(Q(expires_at=None) | Q(expires_at__gt=now), pk=dispatch_id)
    free = row.filter(state=State.QUEUED, due_at=None, attempts__lt=F("attempts_before") + policy.starts)
    ours = rows().filter(pk=dispatch_id, state=State.RUNNING, worker=worker[:255], started_at=started_at)
    if not free.update(attempts=F("attempts") + 1, **claimed) and not ours.update(due_at=due_at):
        return 0
    return ours.values_list("attempts", flat=True).first() or 0


def close(dispatch_id: uuid.UUID, policy: QueuePolicy, now: datetime | None = None) -> State | None:
    """End what nobody waits for any more, or what has no attempt left since its queue allows fewer: its state then."""
    if expire(dispatch_id, now):
        return State.EXPIRED
    spent = rows().filter(pk=dispatch_id, state=State.QUEUED, attempts__gte=F("attempts_before") + policy.starts)
    ended = {"state": State.FAILED, "finished_at": now or timezone.now(), "due_at": None, "error": "no attempt is left"}
    return State.FAILED if spent.filter(attempts__gt=0).update(**ended) else None


def abandon(dispatch_id: uuid.UUID, reason: str, now: datetime | None = None) -> bool:
    """Fail a queued dispatch that nobody can run. Returns False if it is not queued any more."""
    queued = rows().filter(pk=dispatch_id, state=State.QUEUED)
    ended = {"state": State.FAILED, "finished_at": now or timezone.now(), "due_at": None}
    return bool(queued.update(error=_text(reason, ERROR_LENGTH), **ended))


def queues(state: State) -> Iterator[str]:
    """Each queue that has a dispatch in this state, from one to the next in the index: DISTINCT would read them all."""
    named = rows().filter(state=state).order_by("queue").values_list("queue", flat=True)
    queue = named.first()
    while queue is not None:
        yield queue
        queue = named.filter(queue__gt=queue).first()


def lease() -> timedelta:
    """How long a claim holds unless it is renewed."""
    return timedelta(seconds=conf.LEASE)


def renew(claims: Iterable[tuple[uuid.UUID, int]], now: datetime | None = None) -> int:
    """Hold these claims, by id and attempt, for another lease; how many there were to hold."""
    held = Q(pk__in=[])
    for dispatch_id, attempt in claims:
        held |= Q(pk=dispatch_id, attempts=attempt)
    return rows().filter(held, state=State.RUNNING).update(due_at=(now or timezone.now()) + lease())


def holds(dispatch_id: uuid.UUID, attempt: int) -> bool:
    """Whether this attempt still has the dispatch."""
    return rows().filter(pk=dispatch_id, state=State.RUNNING, attempts=attempt).exists()


def holds_up(queue: str, now: datetime | None = None) -> bool:
    """Whether more than a few dispatches of this queue wait in the ledger that the reapers should have published."""
    late = (now or timezone.now()) - timedelta(seconds=2 * conf.REAPER_INTERVAL)
    held = {"state": State.QUEUED, "queue": queue, "due_at__lte": late, "published_at": None, "finished_at": None}
    return bool(rows().filter(**held).order_by("due_at").values_list("pk")[A_FEW : A_FEW + 1])  # in the index's order


def finish(
    dispatch_id: uuid.UUID,
    attempt: int,
    outcome: Outcome,
    now: datetime | None = None,
    *,
    results_ttl: float | None = None,
    kept_response: bytes | None = None,
) -> bool:
    """Record how this attempt ended, for good. False where another attempt has the dispatch by now.

    The response is to be dropped after `results_ttl` seconds. `kept_response` is the sealed one that the result store
    did not take: the reaper hands it over as soon as it does.
    """
    now = now or timezone.now()
    ended = {
        "state": outcome.state.value,
        "finished_at": now,
        "due_at": now if kept_response else _drop_at(outcome, now, results_ttl),
        "response_status": outcome.status,
        "response_type": _text(outcome.content_type, 255),
        "response_size": outcome.size if outcome.status is not None else None,
        "error": _text(outcome.error, ERROR_LENGTH),
        "kept_response": kept_response,
        **({} if outcome.error else {"sealed": b"", "sealed_file": ""}),
    }
    running = {"id": dispatch_id, "state": State.RUNNING.value, "attempts": attempt}
    return statements.update(DispatchRecord, ended, running)


def _drop_at(outcome: Outcome, now: datetime, results_ttl: float | None) -> datetime | None:
    return None if results_ttl is None or outcome.status is None else now + timedelta(seconds=results_ttl)


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of an attempt that runs: its number, or the worker that it runs on and when it cannot have begun
    yet, or when its lease had run out.
    """

    attempt: int | None = None
    worker: str | None = None
    since: datetime | None = None
    lapsed_at: datetime | None = None

    @property
    def condition(self) -> Q:
        known = {
            "attempts": self.attempt,
            "worker": None if self.worker is None else self.worker[:255],
            "started_at__gte": self.since,
            "due_at__lte": self.lapsed_at,
        }
        return Q(state=State.RUNNING, **{name: value for name, value in known.items() if value is not None})


def retry(
    dispatch_id: uuid.UUID, run: Run, policy: QueuePolicy, outcome: Outcome, now: datetime | None = None
) -> datetime | None:
    """Have the reaper publish a failed attempt's dispatch again, later: when, or None where this was the last attempt.

    It was, too, where nobody would want the answer any more by then, or another attempt has the dispatch.
    """
    record = _running(dispatch_id, run) if outcome.retriable else None
    seconds = pause(policy, record.attempts - record.attempts_before, outcome.retry_after) if record else None
    if record is None or seconds is None:
        return None
    now = now or timezone.now()
    due = now + timedelta(seconds=seconds)
    if record.expires_at is not None and record.expires_at <= due:
        return None
    return due if _requeue(record, run, outcome, now, due_at=due, published_at=None) else None


def hand_back(dispatch_id: uuid.UUID, run: Run, reason: str, now: datetime | None = None) -> datetime | None:
    """Queue the dispatch again, as if this attempt had not been: its worker cannot run it. Returns when it is due.

    Returns None if it was handed back for so long that a worker that could run it would have come by now, or if the
    attempt does not run any more.
    """
    now = now or timezone.now()
    record = _running(dispatch_id, run)
    if record is None or now - _handed_back_since(record, now) >= DEPLOYMENT:
        return None
    due = now + timedelta(seconds=min(2.0 ** min(record.attempts_before, 10), LONGEST_HAND_BACK))
    changes = {"due_at": due, "published_at": None, "attempts_before": F("attempts_before") + 1}
    return due if _requeue(record, run, Outcome(error=reason), now, **changes) else None


def prove_writable() -> None:
    """Write nothing. Raises django.db.Error if the database takes no writes, once its patience is over."""
    rows().filter(pk=uuid.UUID(int=0)).update(error="")


def _handed_back_since(record: DispatchRecord, now: datetime) -> datetime:
    """When a worker handed it back for the first time since somebody wanted it."""
    ended = record.ended_attempts.filter(error__startswith=NOT_REACHED, ended_at__gte=last_wanted(record))
    return ended.aggregate(first=Min("ended_at"))["first"] or now


def is_revived(dispatch_id: uuid.UUID) -> bool:
    """Whether somebody in charge had it run again."""
    return ActionRecord.objects.using(database.alias()).filter(dispatch=dispatch_id, action="retry").exists()


def latest_seal() -> str:
    """How the request was sealed that was accepted last, whatever became of it; empty if there is none."""
    return rows().order_by("-accepted_at").values_list("sealed_with", flat=True).first() or ""


def last_wanted(record: DispatchRecord) -> datetime:
    """When somebody asked for it: when it was accepted, or last had to run again."""
    again = record.actions.filter(action="retry").aggregate(last=Max("at"))["last"]
    return max(record.accepted_at, again or record.accepted_at)


def give_up(dispatch_id: uuid.UUID, run: Run, error: str, now: datetime | None = None) -> State | None:
    """The attempt was stopped without an answer. The state that follows; None where it does not run any more."""
    record = _running(dispatch_id, run)
    if record is None:
        return None
    outcome = Outcome(error=error, retriable=True)
    policy = conf.queues.get(record.queue)
    if policy and retry(dispatch_id, run, policy, outcome, now):
        return State.QUEUED
    return State.FAILED if finish(dispatch_id, record.attempts, outcome, now) else None


def lose(dispatch_id: uuid.UUID, run: Run, reason: str, now: datetime | None = None) -> State | None:
    """The attempt will not end: its worker was lost, and `reason` says how. The state that follows.

    The dispatch is queued again, or it fails, where its queue promises `at_most_once` or it has no attempt left. Where
    a lease lapsed, the reaper publishes it; else the message broker itself delivers it again. None where the attempt
    does not run any more, or its lease was renewed since.
    """
    now = now or timezone.now()
    record = _running(dispatch_id, run)
    if record is None:
        return None
    policy = conf.queues.get(record.queue)
    starts = policy.starts if policy else 1
    if record.attempts - record.attempts_before < starts:
        due_at, published_at = (now, None) if run.lapsed_at else (None, F("published_at"))
        queued = _requeue(record, run, Outcome(error=reason), now, due_at=due_at, published_at=published_at)
        return State.QUEUED if queued else None
    if policy and policy.delivery == "at_most_once":
        reason = f"{reason}; it is not run again, for the queue delivers at most once"
    ended = {"state": State.FAILED, "finished_at": now, "due_at": None, "error": reason[:ERROR_LENGTH]}
    return State.FAILED if _still(record, run).update(**ended) else None


def _running(dispatch_id: uuid.UUID, run: Run) -> DispatchRecord | None:
    return rows().defer("sealed", "kept_response", "trace_fields").filter(run.condition, pk=dispatch_id).first()


def _still(record: DispatchRecord, run: Run) -> QuerySet[DispatchRecord]:
    """The row, where it is the same attempt and what is known of it still holds."""
    return rows().filter(run.condition, pk=record.pk, attempts=record.attempts)


def _requeue(record: DispatchRecord, run: Run, outcome: Outcome, now: datetime, **changes: Any) -> bool:
    """End the running attempt and queue the dispatch again."""
    with transaction.atomic(using=database.alias()):
        if not _still(record, run).update(state=State.QUEUED, **changes):
            return False
        AttemptRecord.objects.using(database.alias()).create(
            dispatch_id=record.pk,
            number=record.attempts,
            worker=record.worker,
            started_at=record.started_at or now,
            ended_at=now,
            response_status=outcome.status,
            error=_text(outcome.error, ERROR_LENGTH),
        )
    return True


def cancel(dispatch_id: uuid.UUID, now: datetime | None = None) -> bool:
    """Cancel what has not begun. Returns False if it was cancelled before: it stays so.

    Raises DispatchConflictError for any other state.
    """
    queued = rows().filter(pk=dispatch_id, state=State.QUEUED)
    if queued.update(state=State.CANCELLED, finished_at=now or timezone.now(), due_at=None):
        return True
    state = rows().values_list("state", flat=True).filter(pk=dispatch_id).first()
    if state != State.CANCELLED:
        raise DispatchConflictError(f"the dispatch is {state}")
    return False


def cancel_all(ids: Collection[uuid.UUID], now: datetime | None = None) -> list[uuid.UUID]:
    """Cancel those of these that have not begun, in one statement. Returns which it cancelled."""
    cancelled = {"state": State.CANCELLED, "finished_at": now or timezone.now()}
    waiting = list(rows().filter(pk__in=ids, state=State.QUEUED).values_list("pk", flat=True))
    changed = rows().filter(pk__in=waiting, state=State.QUEUED).update(**cancelled, due_at=None) if waiting else 0
    if changed == len(waiting):
        return waiting
    return list(rows().filter(pk__in=waiting, **cancelled).values_list("pk", flat=True)) if changed else []


def stop(dispatch_id: uuid.UUID, run: Run, now: datetime | None = None) -> bool:
    """Cancel an attempt that its worker is about to stop. False where it does not run any more."""
    running = rows().filter(run.condition, pk=dispatch_id)
    return bool(running.update(state=State.CANCELLED, finished_at=now or timezone.now(), due_at=None))


def expire(dispatch_id: uuid.UUID, now: datetime | None = None) -> bool:
    """Mark as expired what nobody waits for any more."""
    now = now or timezone.now()
    waiting = rows().filter(pk=dispatch_id, state__in=sources(State.EXPIRED), expires_at__lte=now)
    return bool(waiting.update(state=State.EXPIRED, finished_at=now, due_at=None))


def find(dispatch_id: uuid.UUID) -> DispatchRecord | None:
    """The dispatch without its sealed request; one whose time is over is expired by being looked at."""
    return _looked_at(rows().filter(pk=dispatch_id))


def find_all(ids: Collection[uuid.UUID]) -> dict[uuid.UUID, DispatchRecord]:
    """The same for many, by id."""
    chunks = [list(ids)[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]
    light = rows().defer("sealed", "kept_response", "trace_fields")
    found = [record for chunk in chunks for record in light.filter(pk__in=chunk)]
    return {record.pk: _expired_by_now(record) for record in found}


def find_by_key(idempotency_key: str) -> DispatchRecord | None:
    """The same by the digest that is unique, where the ledger is written: a replica may not have the row yet."""
    return _looked_at(rows().filter(idempotency_key=idempotency_key))


def _looked_at(found: QuerySet[DispatchRecord]) -> DispatchRecord | None:
    record = found.defer("sealed", "trace_fields").first()
    return record and _expired_by_now(record)


def _expired_by_now(record: DispatchRecord) -> DispatchRecord:
    if record.state == State.QUEUED and record.expires_at and record.expires_at <= timezone.now():
        expire(record.pk)
        record.refresh_from_db(record._state.db, ["state", "finished_at", "started_at", "attempts"])
    return record


def truncated(path: str) -> str:
    """The path as far as the ledger keeps it."""
    return _text(path, len(path)) if len(path) <= PATH_LENGTH else _text(path, PATH_LENGTH - 1) + "…"


def _text(text: str, length: int) -> str:
    """What every database takes: PostgreSQL keeps no NUL, and none keeps half of a surrogate pair."""
    return text[:length].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
