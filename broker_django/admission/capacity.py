"""The load of the queues that have a limit, measured once a second in each process unless somebody is to be refused."""

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
"""How long a sample is good for."""
FRESH_ENOUGH = timedelta(seconds=0.1)
"""How old a sample is that is looked at again before somebody is refused for what was accepted since."""
COMPARABLE = timedelta(minutes=5)
"""How far apart two samples may be that tell a drain rate: what came between them has to be counted."""
COUNTED = 10_000
"""How many dispatches are counted beyond the limit: how far it was passed says when to come back."""

SILENCE = timedelta(minutes=1)
"""How long a queue that goes on refusing is not mentioned again."""


class Gauge:
    """The load of one queue as this process knows it. Threads share it: one measures, the others do not wait for it."""

    def __init__(self, queue: str, now: Callable[[], datetime] = timezone.now) -> None:
        self._queue = queue
        self._now = now
        self._lock = threading.Lock()
        self._sample: Load | None = None
        self._accepted = 0
        self.told_at: datetime | None = None

    def read(self, policy: QueuePolicy, threshold: float = 1.0) -> Load | None:
        """Returns the latest sample plus what this process accepted since; None while another thread takes the first.

        At the pressure `threshold`, requests are refused, but not before the load is measured again.
        """
        if (self._is_stale() or self._may_be_wrong(policy, threshold)) and self._lock.acquire(blocking=False):
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

    def note(self) -> None:
        """Count a dispatch that this process has accepted."""
        self._accepted += 1

    def _is_stale(self) -> bool:
        return self._sample is None or not timedelta() <= self._now() - self._sample.at < FRESH

    def _may_be_wrong(self, policy: QueuePolicy, threshold: float) -> bool:
        """Whether nobody is to be refused before another look: what was accepted since the sample may be running."""
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
    """Raises the errors of the ledger. The oldest is the one that waits longest for its first attempt."""
    most = (policy.max_depth or 0) + COUNTED
    depth = ledger.depth(queue, most)
    oldest = ledger.oldest(queue) if depth else None
    age = 0.0 if oldest is None else max((now - oldest).total_seconds(), 0.0)
    return Load(depth, age, now, capped=depth == most)


class Gauges:
    """A gauge for each queue whose load is asked for; `now` is the clock."""

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
            logger.warning("The load of %s is not known: %s", queue, redacted(error))
            return
        refusal = verdict(queue, policies, {name: load for name, load in loads.items() if load is not None})
        if refusal is not None:
            self._tell(queue, loads)
            raise ReducedCapacityError(f"the queue {queue} takes no more for now", refusal.retry_after)

    def note(self, queue: str) -> None:
        """The queue has taken one more."""
        gauge = self._gauges.get(queue)
        if gauge is not None:
            gauge.note()

    def _tell(self, queue: str, loads: dict[str, Load | None]) -> None:
        gauge, now = self.of(queue), self._now()
        if gauge.told_at is None or not timedelta() <= now - gauge.told_at < SILENCE:
            gauge.told_at = now
            known = ", ".join(f"{name}: {load.depth} wait, {load.age:.0f} s" for name, load in loads.items() if load)
            logger.warning("The queue %s refuses requests (%s)", queue, known)


gauges = Gauges()
