"""What a worker's main process knows of a replay."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import states
from celery.worker.request import Request
from django.db import connections

from broker_django import ledger
from broker_django.notifications import announce

logger = logging.getLogger("workers.requests")


class ReplayRequest(Request):
    """Settles the claim of a process that was lost or stopped, before Celery delivers its task again."""

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # billiard wraps it with its traceback
        if isinstance(error, WorkerLostError):
            try:
                self._settle()
            finally:
                connections.close_all()  # the process that takes the lost one's place must not inherit them
        return super().on_failure(exc_info, *args, **kwargs)

    def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: FBT001 - Celery's signature
        """The process is killed at the hard time limit, which it cannot tell of itself."""
        super().on_timeout(soft, timeout)
        if soft:
            return
        try:
            if ledger.give_up(uuid.UUID(self.id), self.hostname, TimeLimitExceeded.__name__):
                announce(uuid.UUID(self.id))
        finally:
            connections.close_all()

    def _settle(self) -> None:
        """Finish the dispatch where its response was stored already; else let it be claimed again, or fail it."""
        dispatch_id = uuid.UUID(self.id)
        stored = self.task.backend.get_task_meta(self.id, cache=False)
        if stored["status"] == states.SUCCESS:
            result = stored["result"]
            ledger.finish(dispatch_id, result["attempt"], ledger.Outcome.of(result))
            return
        state = ledger.lose(dispatch_id, "the worker process was lost")
        if state is not None:
            logger.warning(
                "Dispatch %s: the worker process was lost: %s", self.id, state, extra={"dispatch_id": self.id}
            )
            announce(dispatch_id)
