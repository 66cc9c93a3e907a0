"""Record how an attempt ended, even if the database is unavailable for a while.

A database that fails, restarts or is read-only for a moment (a demoted primary) must not lose the outcome of a view.
The task waits until shortly before its hard time limit. Then a thread of the process continues to wait.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from celery import signals

from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import ledger
from workers.databases import connections

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

logger = logging.getLogger("workers.replaying.outcomes")

PATIENCE = 120.0
"""Seconds that a task without a hard time limit waits for the database, and a process before it ends."""
LEFT_AT_LIMIT = 3.0
"""Seconds before the hard time limit when a task must be finished."""


class LedgerSilentError(Exception):
    """The database executed no statement for as long as the task could wait."""


def persistently(statement: Callable[[], T], dispatch_id: str, seconds: float) -> T:
    """Returns the ledger's answer, and waits if the database is unavailable.

    Each try uses a new connection. Raises LedgerSilentError after this many seconds, and the ledger's `refusals` at
    once.
    """
    deadline, pause = time.monotonic() + seconds, 0.1
    while True:
        try:
            return statement()
        except ledger.refusals:
            raise
        except ledger.failures as error:
            connections.replace_all()
            if time.monotonic() + pause > deadline:
                raise LedgerSilentError(redacted(error)) from error
            logger.warning("The ledger does not answer, so dispatch %s waits: %s", dispatch_id, redacted(error))
            time.sleep(pause)
            pause = min(2 * pause, longest_pause())


def longest_pause() -> float:
    """Seconds between two tries. Reapers wait much longer after an outage: half a lease."""
    return min(2.0, conf.LEASE / 20)


def seconds_left(request: Any) -> float:
    """Returns how long this task may wait for the database."""
    hard: float | None = (request.timelimit or (None, None))[0]
    if hard is None or request.called_directly:
        return PATIENCE
    began: float = getattr(request, "broker_began", time.monotonic())
    return max(hard - LEFT_AT_LIMIT - (time.monotonic() - began), 0.0)


def seconds_to_soft_limit(request: Any) -> float:
    """Returns how long it may wait before the view begins, because the soft limit would interrupt the wait."""
    soft: float | None = (request.timelimit or (None, None))[1]
    return PATIENCE if soft is None else max(soft - LEFT_AT_LIMIT, 0.0)


class LateOutcomes:
    """Outcomes that could not be recorded within the time limit of their task. A thread of the process records them."""

    def __init__(self) -> None:
        self._waiting: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def record(self, dispatch_id: str, statement: Callable[[], object]) -> None:
        """Keep trying until the database accepts the outcome, or the process ends."""
        logger.error("Dispatch %s has ended but its outcome cannot be recorded yet. It is tried again", dispatch_id)
        thread = threading.Thread(
            target=self._run, args=(dispatch_id, statement), name="broker-late-outcome", daemon=True
        )
        with self._lock:
            self._waiting.add(thread)
        thread.start()

    def _run(self, dispatch_id: str, statement: Callable[[], object]) -> None:
        try:
            persistently(statement, dispatch_id, threading.TIMEOUT_MAX)
        except Exception as error:  # noqa: BLE001 - otherwise nothing would report it
            logger.error("The outcome of dispatch %s is lost: %s", dispatch_id, redacted(error))
        finally:
            connections.replace_all()
            with self._lock:
                self._waiting.discard(threading.current_thread())

    def wait(self, seconds: float = PATIENCE) -> None:
        """Wait for the outcomes before the process ends."""
        deadline = time.monotonic() + seconds
        with self._lock:
            waiting = list(self._waiting)
        for thread in waiting:
            thread.join(max(deadline - time.monotonic(), 0))


late = LateOutcomes()
signals.worker_process_shutdown.connect(lambda **_: late.wait(), weak=False, dispatch_uid="request_broker.late")
signals.worker_shutdown.connect(lambda **_: late.wait(), weak=False, dispatch_uid="request_broker.late")
