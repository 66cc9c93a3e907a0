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
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from django.db import OperationalError, close_old_connections, connections
from django.utils import timezone

from broker_core.dispatches import Run, State
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.forking import fork_lock
from broker_django.messaging.publishing import breaker, publish, waiting_messages
from broker_django.models.moments import moment
from broker_django.operations import sentry
from workers.consuming.deliveries import latest_published
from workers.databases import locks
from workers.recovery.former_queues import former_queues
from workers.recovery.unreadable import OTHER_WORKER_DELAY, postpone_unreadable
from workers.replaying import error_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from uuid import UUID

    from broker_core.dispatches import Dispatch, SealedRequest
    from broker_core.policies import QueuePolicy

logger = logging.getLogger("workers.recovery.reaper")

BATCH = 100
"""Rows that are processed at a time."""
A_FEW = 10
"""Rows of a bounded queue that a pass publishes if the message broker does not report its queue length."""
CHECKS_FOR_LOST = 3
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

    def run_pass(self) -> Iterator[None]:
        """Process what is due, in small steps. Each section has limited time, and the next pass continues.

        Raises the failures of the ledger.
        """
        now = self._now()
        if not ledger.has_one_lock:
            self._check_writable()
        if self._is_steady(now):
            yield from _for_a_while(self._lapsed(now))
        yield from _for_a_while(self._due(now))
        if self._is_time("lost", now, conf.REPUBLISH_AFTER / CHECKS_FOR_LOST):
            yield from _for_a_while(self._expired(now))
            yield from _for_a_while(self._lost(now))
            yield from _for_a_while(former_queues(now))
        if self._house is None and self._is_time("housekeeping", now, HOUSEKEEPING_EVERY):
            self._house = ledger.keep_house(now)
        if self._house is not None and (yield from _for_a_while(self._house)):
            self._house = None

    def record_failure(self) -> None:
        """Record that the database failed, so nobody could renew a lease meanwhile."""
        self._steady_since = self._house = None

    def _is_steady(self, now: datetime) -> bool:
        """Whether workers have had time to renew their leases since the database last failed or was read-only, or this
        process slept.
        """
        slept = self._last_pass is not None and now - self._last_pass > ledger.lease / 2
        if self._steady_since is None or slept:
            self._steady_since = now
        self._last_pass = now
        return now - self._steady_since >= ledger.lease / 2

    def _check_writable(self) -> bool:
        """Whether the ledger accepts a write without delay. If not, no worker could renew a lease meanwhile.

        Raises a failure of the ledger if it accepts none.
        """
        began = time.monotonic()
        ledger.prove_writable()
        if time.monotonic() - began < ledger.lease.total_seconds() / 10:
            return True
        self.record_failure()
        return False

    def _is_time(self, what: str, now: datetime, every: float) -> bool:
        if now < self._next.get(what, now):
            return False
        self._next[what] = now + timedelta(seconds=every * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the reapers
        return True

    def _lapsed(self, now: datetime) -> Iterator[None]:
        batch = ledger.lapsed(now, BATCH, self._skipped(now))
        if batch and not self._check_writable():
            return
        for dispatch in batch:
            with self._unless_locked(dispatch, now):
                reason = "the lease of its worker ran out"
                state = ledger.lose(dispatch.id, Run(dispatch.attempts, lapsed_at=now), reason, now)
                if state is not None:
                    worker = dispatch.worker or "its worker"
                    _log(dispatch, f"the lease of {worker} ran out in attempt {dispatch.attempts}: {state}")
                if state is State.FAILED:
                    error_reports.report_failure_of(dispatch.id)
            yield

    def _due(self, now: datetime) -> Iterator[None]:
        """Publish a batch of each queue in turn, up to its limit. A full queue does not block others."""
        queues = [] if breaker.is_open else _due_queues(now)
        while queues:
            for queue in list(queues):
                room = _room(queue)
                most = A_FEW if room is None else room
                batch = ledger.to_publish(queue, now, most, self._skipped(now)) if most else []
                random.shuffle(batch)  # another reaper may process the same batch
                for request in batch:
                    if breaker.is_open:
                        return
                    with self._unless_locked(request.dispatch, now):
                        self._publish(request, now)
                    yield
                if not room or len(batch) < room:
                    queues.remove(queue)

    def _publish(self, request: SealedRequest, now: datetime) -> None:
        dispatch = request.dispatch
        policy = conf.queues.get(dispatch.queue)
        if policy is None:
            logger.error("Dispatch %s waits: the queue %r is not configured any more", dispatch.id, dispatch.queue)
            ledger.postpone(dispatch.id, now + OTHER_WORKER_DELAY, dispatch.publish_at)
        elif dispatch.is_over(now):
            ledger.expire(dispatch.id, now)
        elif not postpone_unreadable(request, policy, now):
            _publish_again(request, policy, now)

    def _expired(self, now: datetime) -> Iterator[None]:
        for dispatch in ledger.unwanted(now, BATCH, self._skipped(now)):
            with self._unless_locked(dispatch, now):
                ledger.expire(dispatch.id, now)
            yield

    def _lost(self, now: datetime) -> Iterator[None]:
        late = now - timedelta(seconds=conf.REPUBLISH_AFTER)
        for name, policy in conf.queues.items():
            skipped = self._skipped(now)
            if not ledger.published(name, late, 1, skipped):
                continue
            before = self._overtaken(policy, late)
            for request in ledger.published(name, before, BATCH, skipped) if before else []:
                with self._unless_locked(request.dispatch, now):
                    if not postpone_unreadable(request, policy, now) and _publish_again(request, policy, now):
                        _log(request.dispatch, "its message was lost, it is published again")
                yield

    def _overtaken(self, policy: QueuePolicy, late: datetime) -> datetime | None:
        """Returns a time: messages published earlier have left their queue. They are lost, or a worker holds them, and
        then a second copy does no harm. None if that is unknown.
        """
        if waiting_messages(policy) == 0:
            return late
        latest = latest_published.get(policy.celery_queue)
        if latest is None:
            return None
        return moment(latest) - timedelta(seconds=conf.REPUBLISH_AFTER)

    def _skipped(self, now: datetime) -> list[UUID]:
        """Returns dispatches whose rows were locked recently."""
        self._locked = {key: until for key, until in self._locked.items() if until > now}
        return list(self._locked)

    @contextlib.contextmanager
    def _unless_locked(self, dispatch: Dispatch, now: datetime) -> Any:
        """Skip the row for a while if another session has locked it, so that it does not delay others."""
        try:
            yield
        except OperationalError as error:
            if not locks.is_timeout(error):
                raise
            self._locked[dispatch.id] = now + timedelta(seconds=conf.REPUBLISH_AFTER)
            _log(dispatch, "its row is locked by another session, it is skipped for a while")


def _due_queues(now: datetime) -> list[str]:
    """Returns the queues to check, in random order; none if nothing is due. They may include former queues."""
    names = ledger.due_queues(now, BATCH)
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


def _publish_again(request: SealedRequest, policy: QueuePolicy, now: datetime) -> bool:
    """Claim the dispatch and publish it. Returns False if another reaper claimed it, or the message was refused."""
    dispatch = ledger.mark_published(request.dispatch, now)
    if dispatch is None:
        return False
    if publish(replace(request, dispatch=dispatch), policy):
        return True
    pause = conf.REAPER_INTERVAL if breaker.is_open else REFUSED_FOR
    ledger.postpone(dispatch.id, now + timedelta(seconds=pause))
    return False


def _for_a_while(steps: Iterator[Any]) -> Generator[None, None, bool]:
    """Run steps until A_WHILE has passed. Returns whether all are done."""
    end = time.monotonic() + A_WHILE
    for _step in steps:
        yield
        if time.monotonic() > end:
            return False
    return True


def _log(dispatch: Dispatch, text: str) -> None:
    extra = {**error_reports.log_extra(dispatch.id), "queue": dispatch.queue}
    logger.warning("Dispatch %s: %s", dispatch.id, text, extra=extra)


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
    """Run one pass and log any error. This process may be forked between the steps, not within."""
    try:
        with fork_lock:
            close_old_connections()
            locks.limit_waits()
        steps = reaper.run_pass()
        more = True
        while more and not over.is_set():
            with fork_lock:
                more = next(steps, steps) is None
    except ledger.failures as error:
        reaper.record_failure()
        connections.close_all()
        logger.warning("The reaper cannot read the ledger: %s", redacted(error))
    except Exception as error:  # noqa: BLE001 - the next pass may succeed
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("The reaper failed: %s\n%s", redacted(error), frames)
