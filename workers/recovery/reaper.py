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
from workers.consuming.deliveries import handed
from workers.databases import locks
from workers.recovery.former_queues import former_queues
from workers.recovery.unreadable import HESITATION, held_back
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

        Raises the failures of the ledger.
        """
        now = self._now()
        if not ledger.has_one_lock:
            self._proves_writable()
        if self._is_steady(now):
            yield from _for_a_while(self._lapsed(now))
        yield from _for_a_while(self._due(now))
        if self._is_time("lost", now, conf.REPUBLISH_AFTER / LOOKS_AT_LOST):
            yield from _for_a_while(self._expired(now))
            yield from _for_a_while(self._lost(now))
            yield from _for_a_while(former_queues(now))
        if self._house is None and self._is_time("housekeeping", now, HOUSEKEEPING_EVERY):
            self._house = ledger.keep_house(now)
        if self._house is not None and (yield from _for_a_while(self._house)):
            self._house = None

    def stumbled(self) -> None:
        """The database did not answer, so nobody could renew a lease meanwhile."""
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

    def _proves_writable(self) -> bool:
        """Whether the ledger accepts a write without delay. If not, no worker could renew a lease meanwhile.

        Raises a failure of the ledger if it accepts none.
        """
        began = time.monotonic()
        ledger.prove_writable()
        if time.monotonic() - began < ledger.lease.total_seconds() / 10:
            return True
        self.stumbled()
        return False

    def _is_time(self, what: str, now: datetime, every: float) -> bool:
        if now < self._next.get(what, now):
            return False
        self._next[what] = now + timedelta(seconds=every * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the reapers
        return True

    def _lapsed(self, now: datetime) -> Iterator[None]:
        batch = ledger.lapsed(now, BATCH, self._skipped(now))
        if batch and not self._proves_writable():
            return
        for dispatch in batch:
            with self._unless_locked(dispatch, now):
                reason = "the lease of its worker ran out"
                state = ledger.lose(dispatch.id, Run(dispatch.attempts, lapsed_at=now), reason, now)
                if state is not None:
                    whose = dispatch.worker or "its worker"
                    _tell(dispatch, f"the lease of {whose} ran out in attempt {dispatch.attempts}: {state}")
                if state is State.FAILED:
                    error_reports.report_failure_of(dispatch.id)
            yield

    def _due(self, now: datetime) -> Iterator[None]:
        """Publish a batch of each queue in turn, as far as there is room. A full queue does not block others."""
        queues = [] if breaker.is_open else _due_queues(now)
        while queues:
            for queue in list(queues):
                room = _room(queue)
                most = A_FEW if room is None else room
                batch = ledger.to_publish(queue, now, most, self._skipped(now)) if most else []
                random.shuffle(batch)  # another reaper has the same ones before it
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
            ledger.postpone(dispatch.id, now + HESITATION, dispatch.publish_at)
        elif dispatch.has_expired(now):
            ledger.expire(dispatch.id, now)
        elif not held_back(request, policy, now):
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
                    if not held_back(request, policy, now) and _publish_again(request, policy, now):
                        _tell(request.dispatch, "its message was lost, it is published again")
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

    def _skipped(self, now: datetime) -> list[UUID]:
        """Dispatches whose rows were locked a short time ago."""
        self._locked = {key: until for key, until in self._locked.items() if until > now}
        return list(self._locked)

    @contextlib.contextmanager
    def _unless_locked(self, dispatch: Dispatch, now: datetime) -> Any:
        """Leave a row alone for a while that somebody else has locked: it holds up no other."""
        try:
            yield
        except OperationalError as error:
            if not locks.is_timeout(error):
                raise
            self._locked[dispatch.id] = now + timedelta(seconds=conf.REPUBLISH_AFTER)
            _tell(dispatch, "its row is locked by somebody else, it is left alone for a while")


def _due_queues(now: datetime) -> list[str]:
    """The queues to look into, in any order; none if nothing is due. Among them may be former ones."""
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
    """Claim the dispatch for publishing, and publish it. Returns False if another reaper has it, or nobody takes it."""
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


def _tell(dispatch: Dispatch, what: str) -> None:
    told = {**error_reports.log_extra(dispatch.id), "queue": dispatch.queue}
    logger.warning("Dispatch %s: %s", dispatch.id, what, extra=told)


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
    except ledger.failures as error:
        reaper.stumbled()
        connections.close_all()
        logger.warning("The reaper cannot read the ledger: %s", redacted(error))
    except Exception as error:  # noqa: BLE001 - the next pass may succeed
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("The reaper failed: %s\n%s", redacted(error), where)
