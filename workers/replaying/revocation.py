"""Cancel dispatches that an operator revokes or terminates, in Flower or with `app.control.revoke`.

Celery only drops the message, so the reaper would publish it again, and workers forget what was revoked.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from typing import TYPE_CHECKING

from django.db import connections

from broker_core.errors import DispatchConflictError
from broker_core.redaction import redacted
from broker_django.ledger import ledger
from workers.databases import locks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker_core.dispatches import Run

logger = logging.getLogger("workers.replaying.revocation")

CHUNK = 500


def cancel_waiting(task_ids: Iterable[str]) -> None:
    """Cancel those that are waiting dispatches, including those that wait for a retry and have no message."""
    found = {key for task_id in task_ids if (key := _key(task_id)) is not None}
    with _errors_logged(f"The dispatches among {len(found)} revoked tasks"):
        locks.limit_waits()
        for chunk in _chunks(sorted(found)):  # sorted, because other workers do the same at the same time
            for dispatch_id in ledger.cancel_all(chunk):
                _log_cancelled(dispatch_id, "revoked")


def cancel(task_id: str, run: Run | None) -> None:
    """Cancel a dispatch whose message was dropped, or whose attempt `run` is about to be stopped or may just begin.

    Attempts on other workers and ended ones are not affected.
    """
    dispatch_id = _key(task_id)
    if dispatch_id is not None:
        with _errors_logged(f"Dispatch {dispatch_id}"):
            locks.limit_waits()
            _cancel_dispatch(dispatch_id, run)


def _cancel_dispatch(dispatch_id: uuid.UUID, run: Run | None) -> None:
    if _stop_or_cancel(dispatch_id, run):
        _log_cancelled(dispatch_id, "terminated" if run else "revoked")


def _log_cancelled(dispatch_id: uuid.UUID, why: str) -> None:
    extra = {"dispatch_id": str(dispatch_id)}
    logger.warning("Dispatch %s is cancelled: it was %s", dispatch_id, why, extra=extra)


def _stop_or_cancel(dispatch_id: uuid.UUID, run: Run | None) -> bool:
    """Try twice, because the dispatch may be claimed between the two statements."""
    for _attempt in range(2):
        if run is not None and ledger.stop(dispatch_id, run):
            return True
        with contextlib.suppress(DispatchConflictError):
            return ledger.cancel(dispatch_id)
    return False


@contextlib.contextmanager
def _errors_logged(subject: str) -> Iterator[None]:
    """If the ledger does not answer, Celery continues: the lease expires, or the revocation is missed."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - any error here would corrupt Celery's count of tasks
        logger.error("%s cannot be cancelled now: %s", subject, redacted(error))
    finally:
        connections.close_all()  # forked processes must not inherit them


def _key(task_id: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(task_id)
    except (ValueError, AttributeError, TypeError):
        return None


def _chunks(keys: list[uuid.UUID]) -> Iterator[list[uuid.UUID]]:
    return (keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK))
