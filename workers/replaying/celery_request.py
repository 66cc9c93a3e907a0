"""The main process's view of a replay."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request
from django.db import connections

from broker_core.dispatches import Run, State
from broker_core.redaction import redacted
from broker_django.ledger import ledger
from broker_django.models.moments import moment
from workers.replaying import error_reports, revocation, stopping

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("workers.replaying.celery_request")


class ReplayRequest(Request):
    """Updates the ledger if a process was lost or stopped, before Celery delivers its task again, and cancels
    dispatches that an operator revokes or terminates.
    """

    _terminated = False

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Update the ledger first, so that no outcome of the stopped process counts."""
        can_stop = stopping.can_stop(pool)
        if can_stop or not self.time_start:
            self._terminated = True
            revocation.cancel(self.id, self._run())
        if can_stop or self.time_start:
            super().terminate(pool, signal)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:  # noqa: FBT001 - Celery's signature
        """Celery drops the message, or has found that the terminated process ended."""
        if not terminated:
            revocation.cancel(self.id, None)
        elif not self._terminated:
            self._update_ledger(self._lost)
        super()._announce_revoked(reason, terminated, signum, expired)  # type: ignore[misc] # untyped

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # billiard wraps errors with their traceback
        if isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt)):
            self._update_ledger(self._lost)
        elif not isinstance(error, TimeLimitExceeded):
            return super().on_failure(exc_info, *args, **kwargs)
        with error_reports.logs_held_back():
            return super().on_failure(exc_info, *args, **kwargs)

    def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: FBT001 - Celery's signature
        """The process is killed at the hard time limit, and cannot report it itself."""
        if soft:
            super().on_timeout(soft, timeout)
            return
        error_reports.expect_end(self.worker_pid)
        with error_reports.logs_held_back():
            super().on_timeout(soft, timeout)
        self._update_ledger(self._stopped)

    def _update_ledger(self, transition: Callable[[uuid.UUID, Run], State | None]) -> None:
        """If the ledger does not answer, the lease expires: Celery must continue with what it does."""
        run = self._run()
        if run is None:
            return
        dispatch_id = uuid.UUID(self.id)
        try:
            ledger.limit_waits()
            state = transition(dispatch_id, run)
            if state is State.FAILED:
                error_reports.report_failure_of(dispatch_id)
        except Exception as error:  # noqa: BLE001 - any error here would corrupt Celery's count of tasks
            logger.error("Dispatch %s waits until its lease runs out: %s", dispatch_id, redacted(error))
        finally:
            connections.close_all()  # the replacement process must not inherit them

    def _run(self) -> Run | None:
        """Returns the attempt that runs here; None if it has not begun."""
        if not self.time_start:
            return None
        return Run(worker=self.hostname, since=moment(self.time_start))

    def _lost(self, dispatch_id: uuid.UUID, run: Run) -> State | None:
        state = ledger.lose(dispatch_id, run, "the worker process was lost")
        if state is not None:
            extra = error_reports.log_extra(dispatch_id)
            logger.warning("Dispatch %s: the worker process was lost: %s", dispatch_id, state, extra=extra)
        return state

    def _stopped(self, dispatch_id: uuid.UUID, run: Run) -> State | None:
        return ledger.give_up(dispatch_id, run, TimeLimitExceeded.__name__)
