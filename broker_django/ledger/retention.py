"""Housekeeping: old data is deleted in chunks, so that no lock is held for long."""

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
"""Rows per transaction."""

REFUSED_FOR = timedelta(minutes=1)
"""How long to wait after the result store refused a response."""

ORPHAN_AGE = timedelta(days=1)
"""A younger file may belong to a dispatch that is still being written."""

DONE = tuple(state for state in State if state.done)


def keep_house(now: datetime | None = None, *, of_former_queues: bool = False) -> Iterator[int]:
    """Store kept responses, drop old ones, and delete old dispatches with everything that belongs to them.

    Yields the number of deleted dispatches after each step. `of_former_queues` includes queues that are no longer
    configured.
    """
    now = now or timezone.now()
    for state in DONE:
        yield from _store_kept_responses(state, now)
        while _drop_responses(state, now) == CHUNK:
            yield 0
    for condition, seconds in _retentions(of_former_queues=of_former_queues):
        before = now - timedelta(seconds=seconds)
        try:
            yield from _delete(rows().filter(condition, finished_at__lt=before).order_by("finished_at"))
        except IntegrityError as error:  # a foreign key of the project protects one of them
            logger.error("Old dispatches cannot be deleted: %s", redacted(error))


def _delete(old: QuerySet[DispatchRecord]) -> Iterator[int]:
    """Raises IntegrityError."""
    while deleted := _delete_chunk(old):
        logger.info("Deleted %d old dispatches", len(deleted))
        yield len(deleted)
        for file in filter(None, deleted.values()):
            bodies.delete([file])
            yield 0


def _store_kept_responses(state: State, now: datetime) -> Iterator[int]:
    """Store kept responses in the result store, one by one, until it refuses one."""
    kept = _due(state, now).filter(kept_response__isnull=False)
    for pk in list(kept.values_list("pk", flat=True)[:CHUNK]):
        record = rows().defer("sealed").filter(pk=pk, kept_response__isnull=False).first()
        if record is not None and not _store_kept_response(record, now):
            kept.filter(pk=pk, due_at=record.due_at).update(due_at=now + REFUSED_FOR)  # so that others are next
            return
        yield 0


def _store_kept_response(record: DispatchRecord, now: datetime) -> bool:
    """Returns False if the result store refuses the response that the ledger kept."""
    outcome = Outcome(record.response_status, record.response_type, record.response_size or 0, record.error)
    sealed = bytes(record.kept_response or b"").decode("ascii", "replace")
    if not results.store(record.pk, results.result(record.attempts, outcome, sealed)):
        return False
    policy = conf.queues.get(record.queue)
    drop_at = now + timedelta(seconds=policy.results_ttl) if policy else None
    rows().filter(pk=record.pk, due_at=record.due_at).update(kept_response=None, due_at=drop_at)
    return True


def _drop_responses(state: State, now: datetime) -> int:
    """Drop a chunk of old responses. Returns how many."""
    dropped = list(_due(state, now).filter(kept_response=None).values_list("pk", flat=True)[:CHUNK])
    if not dropped:
        return 0
    results.forget(dropped)
    rows().filter(pk__in=dropped, state=state).update(due_at=None)
    return len(dropped)


def _due(state: State, now: datetime) -> QuerySet[DispatchRecord]:
    """Filters by one state, so that the index provides the order."""
    return rows().filter(state=state, due_at__lte=now).order_by("due_at")


def _retentions(*, of_former_queues: bool) -> Iterator[tuple[Q, float]]:
    """Yields filters for dispatches, each with the seconds for which they are kept."""
    for state in DONE:
        for queue, policy in conf.queues.items():
            yield Q(state=state, queue=queue), policy.retention[state]
        for queue in queues(state) if of_former_queues else ():
            if queue not in conf.queues:
                yield Q(state=state, queue=queue), RETENTION[state]


def _delete_chunk(old: QuerySet[DispatchRecord]) -> dict[uuid.UUID, str]:
    """Returns the ids, with the files to delete. Two processes that do this at once delete different rows."""
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
    """Whether models of the project refer to dispatches, so that their `on_delete` must be respected."""
    own = {AttemptRecord, ActionRecord}
    fields = DispatchRecord._meta.get_fields(include_hidden=True)
    return any(field.auto_created and not field.concrete and field.related_model not in own for field in fields)


def sweep(now: datetime | None = None) -> int:
    """Delete files of large requests that belong to no dispatch. Returns how many. Raises StorageError.

    A process that is killed may leave such files. Files of other installations in the same storage stay: their names
    have another suffix, or they were sealed with an unknown key. Empty files stay, because their key is unknown.
    """
    try:
        old = bodies.older_than((now or timezone.now()) - ORPHAN_AGE)
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
