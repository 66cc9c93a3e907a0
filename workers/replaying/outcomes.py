"""Telling the ledger how an attempt ended, also if the database takes nothing for a while.

A database that fails, restarts or is read-only for a moment (a demoted primary) must not cost the outcome of a view
that ran. The task waits, up to shortly before its hard time limit; then a thread of the process goes on waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from celery import signals
from django.db import DataError, IntegrityError

from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import ledger
from workers.replaying import connections

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

logger = logging.getLogger("workers.replaying.outcomes")

PATIENCE = 120.0
"""Seconds for which a task without a hard time limit waits for the database, and a process that is to end."""
LEFT_AT_LIMIT = 3.0
"""Seconds before the hard time limit at which a task has to be over."""

NEVER_PASSES = (DataError, IntegrityError)
"""Errors that say something of the data, and nothing of the database."""


class LedgerSilentError(Exception):
    """The database did not take a statement for as long as the task could wait."""


def persistently(tell: Callable[[], T], dispatch_id: str, seconds: float) -> T:
    """What the ledger says, even if the database has to come back first.

    Each try is made on a new connection. Raises LedgerSilentError after so many seconds, and DataError or
    IntegrityError at once.
    """
    deadline, pause = time.monotonic() + seconds, 0.1
    while True:
        try:
            return tell()
        except NEVER_PASSES:
            raise
        except ledger.failures as error:
            connections.replace_all()
            if time.monotonic() + pause > deadline:
                raise LedgerSilentError(redacted(error)) from error
            logger.warning("The ledger does not answer, dispatch %s waits for it: %s", dispatch_id, redacted(error))
            time.sleep(pause)
            pause = min(2 * pause, longest_pause())


def longest_pause() -> float:
    """Seconds between two tries: far fewer than reapers wait for after the database was away, half a lease."""
    return min(2.0, conf.LEASE / 20)


def seconds_left(request: Any) -> float:
    """How long this task may wait for the database."""
    hard: float | None = (request.timelimit or (None, None))[0]
    if hard is None or request.called_directly:
        return PATIENCE
    began: float = getattr(request, "broker_began", time.monotonic())
    return max(hard - LEFT_AT_LIMIT - (time.monotonic() - began), 0.0)


def seconds_to_soft_limit(request: Any) -> float:
    """How long it may wait before the view begins: the soft limit would end the wait with an exception."""
    soft: float | None = (request.timelimit or (None, None))[1]
    return PATIENCE if soft is None else max(soft - LEFT_AT_LIMIT, 0.0)


class LateOutcomes:
    """Outcomes that could not be told within the time limit of their task. A thread of the process tells them."""

    def __init__(self) -> None:
        self._waiting: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def tell(self, dispatch_id: str, tell: Callable[[], object]) -> None:
        """Go on telling until the database takes it, or the process ends."""
        logger.error("Dispatch %s has ended, and the ledger cannot be told: it will be, as soon as it can", dispatch_id)
        thread = threading.Thread(target=self._run, args=(dispatch_id, tell), name="broker-late-outcome", daemon=True)
        with self._lock:
            self._waiting.add(thread)
        thread.start()

    def _run(self, dispatch_id: str, tell: Callable[[], object]) -> None:
        try:
            persistently(tell, dispatch_id, threading.TIMEOUT_MAX)
        except Exception as error:  # noqa: BLE001 - nobody else would say so
            logger.error("The outcome of dispatch %s is lost: %s", dispatch_id, redacted(error))
        finally:
            connections.replace_all()
            with self._lock:
                self._waiting.discard(threading.current_thread())

    def wait(self, seconds: float = PATIENCE) -> None:
        """Before the process ends."""
        deadline = time.monotonic() + seconds
        with self._lock:
            waiting = list(self._waiting)
        for thread in waiting:
            thread.join(max(deadline - time.monotonic(), 0))


late = LateOutcomes()
signals.worker_process_shutdown.connect(lambda **_: late.wait(), weak=False, dispatch_uid="request_broker.late")
signals.worker_shutdown.connect(lambda **_: late.wait(), weak=False, dispatch_uid="request_broker.late")
