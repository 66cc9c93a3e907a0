"""The reaper: recovers interrupted dispatches, in every worker, from the ledger alone.

It publishes dispatches again if the message broker never accepted them, if a retry is due, if their message was lost,
or if their worker was lost. Any number of reapers may run, because each row is claimed by compare-and-set.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
import traceback
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from django.db import Error as DatabaseFailure
from django.db import OperationalError, close_old_connections, connections
from django.utils import timezone

from broker_core.dispatches import State
from broker_core.redaction import redacted
from broker_django import ledger
from broker_django.conf import conf
from broker_django.ledger import retention
from broker_django.messaging.forking import fork_lock
from broker_django.messaging.notifications import announce
from broker_django.messaging.publishing import breaker, publish, waiting_messages
from broker_django.models.moments import moment
from broker_django.operations import sentry
from workers.consuming.deliveries import handed
from workers.recovery import locks
from workers.recovery.former_queues import former_queues
from workers.recovery.unreadable import HESITATION, held_back
from workers.replaying import error_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from uuid import UUID

    from broker_core.policies import QueuePolicy
    from broker_django.models import DispatchRecord

logger = logging.getLogger("workers.recovery.reaper")

BATCH = 100
"""Rows that are processed at a time."""
A_FEW = 10
"""Rows of a bounded queue that a pass publishes if the message broker does not report its queue length."""
LOOKS_AT_LOST = 3
"""How often it checks for lost messages during REPUBLISH_AFTER."""
HOUSEKEEPING_EVERY = 30.0
REFUSED_FOR = 5.0
"""Seconds until a refused message is tried again. The message broker may be full, or read-only for a moment."""
A_WHILE = 1.0
"""Seconds that a pass spends on one section."""


class Reaper:
    """Runs one pass after another; `now` is the clock."""

    def __init__(self, now: Callable[[], datetime] = timezone.now) -> None:
        self._now = now
        self._last_pass: datetime | None = None
        self._steady_since: datetime | None = None
        self._next: dict[str, datetime] = {}
        self._locked: dict[UUID, datetime] = {}
        self._house: Iterator[int] | None = None

    def look(self) -> Iterator[None]:
        """One pass over what is due, in small steps, each section for a while: the next pass goes on.

        Raises django.db.Error.
        """
        now = self._now()
        if connections[ledger.rows().db].vendor != "sqlite":  # whose writers share one lock
            self._proves_writable()
        if self._is_steady(now):
            yield from _for_a_while(self._lapsed(now))
        yield from _for_a_while(self._due(now))
        if self._is_time("lost", now, conf.REPUBLISH_AFTER / LOOKS_AT_LOST):
            yield from _for_a_while(self._expired(now))
            yield from _for_a_while(self._lost(now))
            yield from _for_a_while(former_queues(now))
        if self._house is None and self._is_time("housekeeping", now, HOUSEKEEPING_EVERY):
            self._house = retention.keep_house(now)
        if self._house is not None and (yield from _for_a_while(self._house)):
            self._house = None

    def stumbled(self) -> None:
        """The database did not answer, so nobody could renew a lease meanwhile."""
        self._steady_since = self._house = None

    def _is_steady(self, now: datetime) -> bool:
        """Whether workers have had time to renew their leases since the database last failed or was read-only, or this
        process slept.
        """
        slept = self._last_pass is not None and now - self._last_pass > ledger.lease() / 2
        if self._steady_since is None or slept:
            self._steady_since = now
        self._last_pass = now
        return now - self._steady_since >= ledger.lease() / 2

    def _proves_writable(self) -> bool:
        """Whether the ledger accepts a write without delay. If not, no worker could renew a lease meanwhile.

        Raises django.db.Error if it accepts none.
        """
        began = time.monotonic()
        ledger.prove_writable()
        if time.monotonic() - began < ledger.lease().total_seconds() / 10:
            return True
        self.stumbled()
        return False

    def _is_time(self, what: str, now: datetime, every: float) -> bool:
        if now < self._next.get(what, now):
            return False
        self._next[what] = now + timedelta(seconds=every * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the reapers
        return True

    def _lapsed(self, now: datetime) -> Iterator[None]:
        batch = self._batch(State.RUNNING, "due_at", now, due_at__lte=now)
        if batch and not self._proves_writable():
            return
        for record in batch:
            with self._unless_locked(record, now):
                reason = "the lease of its worker ran out"
                state = ledger.lose(record.pk, ledger.Run(record.attempts, lapsed_at=now), reason, now)
                if state is not None:
                    whose = record.worker or "its worker"
                    _tell(record, f"the lease of {whose} ran out in attempt {record.attempts}: {state}")
                    announce(record.pk)
                if state is State.FAILED:
                    error_reports.report_failure_of(record.pk)
            yield

    def _due(self, now: datetime) -> Iterator[None]:
        """Publish a batch of each queue in turn, as far as there is room. A full queue does not block others."""
        queues = [] if breaker.is_open else _due_queues(now)
        while queues:
            for queue in list(queues):
                room = _room(queue)
                batch = [] if room == 0 else self._held(queue, now, A_FEW if room is None else room)
                random.shuffle(batch)  # another reaper has the same ones before it
                for record in batch:
                    if breaker.is_open:
                        return
                    with self._unless_locked(record, now):
                        self._publish(record, now)
                    yield
                if not room or len(batch) < room:
                    queues.remove(queue)

    def _publish(self, record: DispatchRecord, now: datetime) -> None:
        policy = conf.queues.get(record.queue)
        if policy is None:
            logger.error("Dispatch %s waits: the queue %r is not configured any more", record.pk, record.queue)
            ledger.put_off(record.pk, now + HESITATION, due_at=record.due_at)
        elif record.expires_at is not None and record.expires_at <= now:
            ledger.expire(record.pk, now)
        elif not held_back(record, policy, now):
            _publish_again(record, policy, now)

    def _expired(self, now: datetime) -> Iterator[None]:
        for record in self._batch(State.QUEUED, "expires_at", now, expires_at__lte=now, finished_at=None):
            with self._unless_locked(record, now):
                ledger.expire(record.pk, now)
                announce(record.pk)
            yield

    def _lost(self, now: datetime) -> Iterator[None]:
        late = now - timedelta(seconds=conf.REPUBLISH_AFTER)
        for name, policy in conf.queues.items():
            if not self._published(name, late, now, 1):
                continue
            before = self._overtaken(policy, late)
            for record in self._published(name, before, now) if before else []:
                with self._unless_locked(record, now):
                    if not held_back(record, policy, now) and _publish_again(record, policy, now):
                        _tell(record, "its message was lost, it is published again")
                yield

    def _overtaken(self, policy: QueuePolicy, late: datetime) -> datetime | None:
        """Messages published before the returned time have left their queue. So they are lost, or a worker holds them
        and a second copy does no harm. None if that is unknown.
        """
        if waiting_messages(policy) == 0:
            return late
        latest = handed.get(policy.celery_queue)
        if latest is None:
            return None
        return moment(latest) - timedelta(seconds=conf.REPUBLISH_AFTER)

    def _batch(
        self, state: State, order: str, now: datetime, most: int = BATCH, **conditions: Any
    ) -> list[DispatchRecord]:
        """In the order of an index, or PostgreSQL may read the whole ledger in the hope of meeting one soon."""
        self._locked = {key: until for key, until in self._locked.items() if until > now}
        rows = ledger.rows().filter(state=state, **conditions).exclude(pk__in=list(self._locked))
        return list(rows.defer("kept_response").order_by(order)[:most])

    def _published(self, queue: str, before: datetime, now: datetime, most: int = BATCH) -> list[DispatchRecord]:
        """Those that the message broker should have; `finished_at` says what the condition of their index does."""
        published = {"queue": queue, "published_at__lte": before, "due_at": None, "finished_at": None}
        return self._batch(State.QUEUED, "published_at", now, most, **published)

    def _held(self, queue: str, now: datetime, most: int) -> list[DispatchRecord]:
        """Those that are to be published; the rest says what the condition of their index does."""
        held = {"queue": queue, "due_at__lte": now, "published_at": None, "finished_at": None}
        return self._batch(State.QUEUED, "due_at", now, most, **held)

    @contextlib.contextmanager
    def _unless_locked(self, record: DispatchRecord, now: datetime) -> Any:
        """Leave a row alone for a while that somebody else has locked: it holds up no other."""
        try:
            yield
        except OperationalError as error:
            if not locks.is_timeout(error):
                raise
            self._locked[record.pk] = now + timedelta(seconds=conf.REPUBLISH_AFTER)
            _tell(record, "its row is locked by somebody else, it is left alone for a while")


def _due_queues(now: datetime) -> list[str]:
    """The queues to look into, in any order; none if nothing is due. Among them may be former ones."""
    due = ledger.rows().filter(state=State.QUEUED, due_at__lte=now)
    names = set(due.order_by("due_at").values_list("queue", flat=True)[:BATCH])
    if names:
        names.update(conf.queues)
    return random.sample(sorted(names), len(names))


def _room(queue: str) -> int | None:
    """Returns how many messages of this queue may be published before the next check; None if it is unknown."""
    policy = conf.queues.get(queue)
    if policy is None or policy.max_published is None:
        return BATCH
    waiting = waiting_messages(policy)
    return None if waiting is None else max(0, min(policy.max_published - waiting, BATCH))


def _publish_again(record: DispatchRecord, policy: QueuePolicy, now: datetime) -> bool:
    """Take the row and hand it to the message broker; whether that took it. Another reaper may have the row."""
    if not ledger.take_up(record, now):
        return False
    if publish(record, policy):
        return True
    pause = conf.REAPER_INTERVAL if breaker.is_open else REFUSED_FOR
    ledger.put_off(record.pk, now + timedelta(seconds=pause))
    return False


def _for_a_while(steps: Iterator[Any]) -> Generator[None, None, bool]:
    """Run steps until A_WHILE has passed. Returns whether all are done."""
    end = time.monotonic() + A_WHILE
    for _step in steps:
        yield
        if time.monotonic() > end:
            return False
    return True


def _tell(record: DispatchRecord, what: str) -> None:
    told = {**error_reports.log_extra(record.pk), "queue": record.queue}
    logger.warning("Dispatch %s: %s", record.pk, what, extra=told)


class Reaping(bootsteps.StartStopStep):
    """Runs a reaper in a thread of the worker, also while the worker reconnects to its message broker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        sentry.watch()  # projects initialise Sentry when a worker starts
        self._thread = threading.Thread(target=self._run, name="broker-reaper", daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=conf.PUBLISH_TIMEOUT)

    terminate = stop

    def _run(self) -> None:
        reaper = Reaper()
        while not self._over.wait(conf.REAPER_INTERVAL * random.uniform(0.5, 1.5)):  # noqa: S311 - not a secret
            _run_pass(reaper, self._over)
        connections.close_all()


def _run_pass(reaper: Reaper, over: threading.Event) -> None:
    """Run one pass and survive any error. Between its steps this process may be forked."""
    try:
        with fork_lock:
            close_old_connections()
            locks.limit_waits()
        steps = reaper.look()
        more = True
        while more and not over.is_set():
            with fork_lock:
                more = next(steps, steps) is None
    except DatabaseFailure as error:
        reaper.stumbled()
        connections.close_all()
        logger.warning("The reaper cannot read the ledger: %s", redacted(error))
    except Exception as error:  # noqa: BLE001 - the next pass may succeed
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("The reaper failed: %s\n%s", redacted(error), where)
