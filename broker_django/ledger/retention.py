"""Housekeeping: what nobody needs any more is deleted, a chunk at a time, so that no lock is held for long."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db import IntegrityError, connections, transaction
from django.db.models import Q
from django.utils import timezone

from broker_core.dispatches import Outcome, State
from broker_core.policies import RETENTION
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import bodies, results
from broker_django.ledger.due import queues
from broker_django.ledger.rows import rows
from broker_django.models import ActionRecord, AttemptRecord, DispatchRecord, database

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

    from django.db.models import QuerySet

logger = logging.getLogger("broker_django.ledger.retention")

CHUNK = 100
"""Rows in one transaction."""

REFUSED_FOR = timedelta(minutes=1)
"""How long a response is kept before the result store that did not take it is asked again."""

NO_ORPHAN = timedelta(days=1)
"""How young a file is that may belong to a dispatch which is still being written."""

DONE = tuple(state for state in State if state.done)


def keep_house(now: datetime | None = None, *, of_former_queues: bool = False) -> Iterator[int]:
    """Hand over kept responses, drop those that are not to be had any more, and delete dispatches whose queue does not
    keep them any more, with all that belongs to them: after each step, how many dispatches it deleted.

    With `of_former_queues` also those of queues that are not configured any more.
    """
    now = now or timezone.now()
    for state in DONE:
        yield from _hand_over(state, now)
        while _drop_responses(state, now) == CHUNK:
            yield 0
    for which, retention in _retentions(of_former_queues=of_former_queues):
        before = now - timedelta(seconds=retention)
        try:
            yield from _delete(rows().filter(which, finished_at__lt=before).order_by("finished_at"))
        except IntegrityError as error:  # a row of the project protects one of them
            logger.error("Dispatches whose time is over cannot be deleted: %s", redacted(error))


def _delete(old: QuerySet[DispatchRecord]) -> Iterator[int]:
    """Raises IntegrityError."""
    while deleted := _delete_chunk(old):
        logger.info("%d dispatches were deleted, their time was over", len(deleted))
        yield len(deleted)
        for file in filter(None, deleted.values()):
            bodies.delete([file])
            yield 0


def _hand_over(state: State, now: datetime) -> Iterator[int]:
    """Give kept responses to the result store, one at a time, until it refuses one."""
    kept = _due(state, now).filter(kept_response__isnull=False)
    for pk in list(kept.values_list("pk", flat=True)[:CHUNK]):
        record = rows().defer("sealed").filter(pk=pk, kept_response__isnull=False).first()
        if record is not None and not _is_taken(record, now):
            kept.filter(pk=pk, due_at=record.due_at).update(due_at=now + REFUSED_FOR)  # others have their turn
            return
        yield 0


def _is_taken(record: DispatchRecord, now: datetime) -> bool:
    """Whether the result store takes the response that the ledger kept."""
    outcome = Outcome(record.response_status, record.response_type, record.response_size or 0, record.error)
    sealed = bytes(record.kept_response or b"").decode("ascii", "replace")
    if not results.store(record.pk, results.result(record.attempts, outcome, sealed)):
        return False
    policy = conf.queues.get(record.queue)
    drop_at = now + timedelta(seconds=policy.results_ttl) if policy else None
    rows().filter(pk=record.pk, due_at=record.due_at).update(kept_response=None, due_at=drop_at)
    return True


def _drop_responses(state: State, now: datetime) -> int:
    """How many responses were dropped, of those whose time is over."""
    dropped = list(_due(state, now).filter(kept_response=None).values_list("pk", flat=True)[:CHUNK])
    if not dropped:
        return 0
    results.forget(dropped)
    rows().filter(pk__in=dropped, state=state).update(due_at=None)
    return len(dropped)


def _due(state: State, now: datetime) -> QuerySet[DispatchRecord]:
    """One state at a time is in the order of its index."""
    return rows().filter(state=state, due_at__lte=now).order_by("due_at")


def _retentions(*, of_former_queues: bool) -> Iterator[tuple[Q, float]]:
    """Which dispatches are kept for how many seconds."""
    for state in DONE:
        for queue, policy in conf.queues.items():
            yield Q(state=state, queue=queue), policy.retention[state]
        for queue in queues(state) if of_former_queues else ():
            if queue not in conf.queues:
                yield Q(state=state, queue=queue), RETENTION[state]


def _delete_chunk(old: QuerySet[DispatchRecord]) -> dict[uuid.UUID, str]:
    """The ids, with the files that are not deleted yet. Another process that keeps house takes other rows."""
    if not old.exists():  # SQLite would lock its file for a transaction that finds nothing to do
        return {}
    alias = database.alias()
    skip = connections[alias].features.has_select_for_update_skip_locked
    with transaction.atomic(using=alias):
        locked = old.select_for_update(skip_locked=skip)
        files = dict(locked.values_list("pk", "sealed_file")[:CHUNK])
        if files:
            AttemptRecord.objects.using(alias).filter(dispatch__in=list(files))._raw_delete(alias)
            ActionRecord.objects.using(alias).filter(dispatch__in=list(files))._raw_delete(alias)
            chunk = rows().filter(pk__in=list(files))
            if _has_relations():
                chunk.delete()
            else:
                chunk._raw_delete(alias)
    results.forget(list(files))
    return files


def _has_relations() -> bool:
    """Whether models of the project refer to dispatches: what becomes of their rows is theirs to say."""
    own = {AttemptRecord, ActionRecord}
    fields = DispatchRecord._meta.get_fields(include_hidden=True)
    return any(field.auto_created and not field.concrete and field.related_model not in own for field in fields)


def sweep(now: datetime | None = None) -> int:
    """Delete the files of large requests that no dispatch has, where the storage lists its files: how many.

    Those of another installation in the same storage stay: they are named for another database, or were sealed with a
    key that is not known here. So do empty ones, which are not known to be of anybody.

    A process that ends in between leaves them behind. Raises StorageError.
    """
    try:
        old = bodies.older_than((now or timezone.now()) - NO_ORPHAN)
    except NotImplementedError:
        logger.info("The storage %r does not list its files", conf.STORAGE)
        return 0
    orphans: list[str] = []
    for chunk in _chunks(list(old)):
        named = rows().filter(pk__in=[old[name] for name in chunk])
        orphans += set(chunk).difference(named.values_list("sealed_file", flat=True))
    orphans = [name for name in orphans if bodies.is_ours(name)]
    bodies.delete(orphans)
    return len(orphans)


def _chunks(names: list[str]) -> Iterator[list[str]]:
    return (names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
