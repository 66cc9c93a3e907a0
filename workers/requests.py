"""What a worker's main process knows of a replay."""

from __future__ import annotations

import uuid
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import states
from celery.worker.request import Request
from django.db import connections

from broker_django import ledger


class ReplayRequest(Request):
    """Settles the claim of a process that was lost, before Celery delivers its task again."""

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # billiard wraps it with its traceback
        if isinstance(error, WorkerLostError):
            try:
                self._settle()
            finally:
                connections.close_all()  # the process that takes the lost one's place must not inherit them
        return super().on_failure(exc_info, *args, **kwargs)

    def _settle(self) -> None:
        """Finish the dispatch where its response was stored already; else let it be claimed again."""
        stored = self.task.backend.get_task_meta(self.id, cache=False)
        if stored["status"] == states.SUCCESS:
            self.task.on_success(stored["result"], self.id, self.args, self.kwargs)
        else:
            ledger.release(uuid.UUID(self.id))
