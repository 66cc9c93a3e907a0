"""Measure the load of queues that have a limit: once a second in each process, more often before refusing requests."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.utils import timezone

from broker_core.backpressure import Load, follow, pressure, thresholds, verdict
from broker_core.errors import ReducedCapacityError
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import get_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_core.policies import QueuePolicy

logger = logging.getLogger("broker_django.admission.capacity")

FRESH = timedelta(seconds=1)
"""Maximum age of a sample."""
FRESH_ENOUGH = timedelta(seconds=0.1)
"""Minimum age of a sample before a refusal measures again."""
COMPARABLE = timedelta(minutes=5)
"""Maximum distance of two samples for a drain rate, because all arrivals between them are counted."""
COUNTED = 10_000
"""Counting stops this far above the limit. How far the limit is exceeded determines Retry-After."""

LOG_EVERY = timedelta(minutes=1)
"""Pause between two log lines for one queue."""


class Gauge:
    """The load of one queue as this process knows it. Threads share it, and do not wait for the one that measures."""

    def __init__(self, queue: str, now: Callable[[], datetime] = timezone.now) -> None:
        self._queue = queue
        self._now = now
        self._lock = threading.Lock()
        self._sample: Load | None = None
        self._accepted = 0
        self.logged_at: datetime | None = None

    def read(self, policy: QueuePolicy, threshold: float = 1.0) -> Load | None:
        """Returns the latest sample plus dispatches accepted here since; None while another thread takes the first.

        Requests are refused at the pressure `threshold`, but the load is measured again before.
        """
        if (self._is_stale() or self._needs_recheck(policy, threshold)) and self._lock.acquire(blocking=False):
            try:
                self._measure(policy)
            finally:
                self._lock.release()
        return self._estimate()

    def _estimate(self) -> Load | None:
        sample = self._sample
        if sample is None:
            return None
        return Load(sample.depth + self._accepted, sample.age, sample.at, sample.capped, sample.measured)

    def count_accepted(self) -> None:
        self._accepted += 1

    def _is_stale(self) -> bool:
        return self._sample is None or not timedelta() <= self._now() - self._sample.at < FRESH

    def _needs_recheck(self, policy: QueuePolicy, threshold: float) -> bool:
        """Whether requests would be refused for dispatches accepted since the sample, which may be running already."""
        estimate = self._estimate()
        if estimate is None or not self._accepted or self._now() - estimate.at < FRESH_ENOUGH:
            return False
        return pressure(policy, estimate) >= threshold

    def _measure(self, policy: QueuePolicy) -> None:
        now, before = self._now(), self._sample
        self._accepted = 0
        sample = measure(self._queue, policy, now)
        if before is not None and timedelta() < now - before.at <= COMPARABLE:
            sample = follow(before, sample, ledger.arrivals(self._queue, before.at, now))
        self._sample = sample


def measure(queue: str, policy: QueuePolicy, now: datetime) -> Load:
    """Returns the load; `age` is that of the oldest dispatch without an attempt. Raises the ledger's errors."""
    most = (policy.max_depth or 0) + COUNTED
    depth = ledger.depth(queue, most)
    oldest = ledger.oldest(queue) if depth else None
    age = 0.0 if oldest is None else max((now - oldest).total_seconds(), 0.0)
    return Load(depth, age, now, capped=depth == most)


class Gauges:
    """One gauge per queue; `now` is the clock."""

    def __init__(self, now: Callable[[], datetime] = timezone.now) -> None:
        self._now = now
        self._gauges: dict[str, Gauge] = {}

    def of(self, queue: str) -> Gauge:
        return self._gauges.get(queue) or self._gauges.setdefault(queue, Gauge(queue, self._now))

    def check(self, queue: str) -> None:
        """Raises ReducedCapacityError if the queue is full. Costs no query if the queue has no limit.

        Raises nothing if the ledger cannot be read, because writing to it will fail too.
        """
        policies = conf.queues
        names = thresholds(queue, policies)
        if not names or get_app().conf.task_always_eager:
            return
        try:
            loads = {name: self.of(name).read(policies[name], threshold) for name, threshold in names.items()}
        except ledger.failures as error:
            logger.warning("The load of the queue %s is unknown: %s", queue, redacted(error))
            return
        refusal = verdict(queue, policies, {name: load for name, load in loads.items() if load is not None})
        if refusal is not None:
            self._log_refusal(queue, loads)
            raise ReducedCapacityError(f"the queue {queue} is full", refusal.retry_after)

    def count_accepted(self, queue: str) -> None:
        gauge = self._gauges.get(queue)
        if gauge is not None:
            gauge.count_accepted()

    def _log_refusal(self, queue: str, loads: dict[str, Load | None]) -> None:
        gauge, now = self.of(queue), self._now()
        if gauge.logged_at is None or not timedelta() <= now - gauge.logged_at < LOG_EVERY:
            gauge.logged_at = now
            known = ", ".join(f"{name}: {load.depth} wait, {load.age:.0f} s" for name, load in loads.items() if load)
            logger.warning("The queue %s refuses requests (%s)", queue, known)


gauges = Gauges()
