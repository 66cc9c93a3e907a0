"""The result store, which contains the responses, and a Celery result backend based on django-celery-results."""

from __future__ import annotations

import logging
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import SecurityError
from django.db import router
from django.db.models.constants import OnConflict
from django.utils import timezone
from django_celery_results.backends.database import DatabaseBackend as ResultsBackend
from kombu.exceptions import ContentDisallowed, DecodeError

from broker_core.errors import UnavailableError
from broker_core.redaction import redacted
from broker_django.ledger import statements
from broker_django.messaging.celery_app import get_app
from broker_django.models import database

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

    from celery import Celery

    from broker_core.dispatches import Outcome

logger = logging.getLogger("broker_django.ledger.results")

CHUNK = 1_000

ENDED = frozenset({states.SUCCESS, states.FAILURE})

UNREADABLE = (DecodeError, ContentDisallowed, SecurityError, ValueError, TypeError, LookupError, AttributeError)
"""Errors raised for a stored result that the broker did not write."""


class DatabaseBackend(ResultsBackend):  # type: ignore[misc] # untyped
    """Never replaces a final state, stores a result in at most two statements, and deletes old results in chunks."""

    def _store_result(
        self,
        task_id: str,
        result: Any,
        status: str,
        traceback: str | None = None,
        request: Any = None,
        using: str | None = None,
    ) -> Any:
        content_type, content_encoding, content = self.encode_content(result)
        meta = {**self._get_meta_from_request(request), "children": self.current_task_children(request)}
        extended = self._get_extended_properties(request, traceback)
        values = {
            **{name: value for name, value in extended.items() if value is not None},
            "status": status,
            "result": content,
            "content_type": content_type,
            "content_encoding": content_encoding,
            "meta": self.encode_content(meta)[2],
            "traceback": traceback,
        }
        if status == states.STARTED:
            values["date_started"] = timezone.now()
        if not statements.insert(self.TaskModel(task_id=task_id, **values), OnConflict.IGNORE):
            rows = self.TaskModel._default_manager.using(using)
            unfinished = rows.filter(task_id=task_id).exclude(status__in=_final_for(status))
            unfinished.update(**values, date_done=timezone.now())
        return content

    def cleanup(self) -> None:
        """Delete results older than `result_expires`, in chunks, so that no lock is held for long."""
        if not self.expires:
            return
        for model in (self.TaskModel, self.GroupModel):
            expired = model._default_manager.get_all_expired(self.expires).order_by("pk").values_list("pk", flat=True)
            while chunk := list(expired[:CHUNK]):
                model._default_manager.filter(pk__in=chunk).delete()


def _final_for(status: str) -> frozenset[str]:
    """Returns the states that `status` does not replace. A worker may store REVOKED while another one runs the task."""
    return ENDED if status in ENDED else states.READY_STATES


def _database_backend(app: Celery) -> ResultsBackend | None:
    """Returns the backend that writes results into a database of the project, or None if they are stored elsewhere.

    For `django-db`, the backend of django-celery-results, it returns ours: the same table, but one statement instead of
    four.
    """
    backend = app.backend
    if type(backend) is ResultsBackend:
        return _own_backend(app)
    return backend if isinstance(backend, ResultsBackend) else None


@lru_cache(maxsize=4)
def _own_backend(app: Celery) -> DatabaseBackend:
    return DatabaseBackend(app=app)


@database.results_too()
def backend_beside_ledger() -> ResultsBackend | None:
    """Returns the backend if it writes results into the database of the ledger, otherwise None."""
    backend = _database_backend(get_app())
    return backend if backend is not None and router.db_for_write(backend.TaskModel) == database.alias() else None


def result(attempt: int, outcome: Outcome, response: str) -> dict[str, Any]:
    """Returns what is stored. Only the response is sealed; its status, type and size can be read in the results."""
    facts = {"status": outcome.status, "content_type": outcome.content_type, "size": outcome.size}
    return {**facts, "error": outcome.error, "attempt": attempt, "sealed": response}


@database.results_too()
def store_in(backend: Any, dispatch_id: uuid.UUID, result: dict[str, Any], task: Any = None) -> None:
    """Raises the errors of the backend."""
    if result["attempt"] > 1:  # result stores never replace an earlier response
        backend.forget(str(dispatch_id))
    backend.store_result(str(dispatch_id), result, states.SUCCESS, request=task)


@database.results_too()
def store(dispatch_id: uuid.UUID, result: dict[str, Any], task: Any = None) -> bool:
    """Returns False if the result store refuses it."""
    try:
        store_in(get_app().backend, dispatch_id, result, task)
    except Exception as error:  # noqa: BLE001 - every result backend has errors of its own
        logger.warning("The result store refused the response of dispatch %s: %s", dispatch_id, redacted(error))
        return False
    return True


@database.results_too()
def forget(dispatch_ids: Collection[uuid.UUID]) -> None:
    """Drop the stored responses of these dispatches. If the result store fails, they stay until they expire there."""
    app, ids = get_app(), [str(dispatch_id) for dispatch_id in dispatch_ids]
    backend = _database_backend(app)
    if backend is not None:
        backend.TaskModel._default_manager.filter(task_id__in=ids).delete()
        return
    try:
        for task_id in ids:
            app.backend.forget(task_id)
    except Exception as error:  # noqa: BLE001 - every result backend has errors of its own
        logger.warning("The result store did not drop %d responses: %s", len(ids), redacted(error))


def sealed_response(dispatch_id: uuid.UUID) -> str | None:
    """Returns the sealed response. None if it is not stored, or if the broker did not write it.

    Raises UnavailableError if the result store does not answer.
    """
    try:
        stored = _stored(str(dispatch_id))
    except UNREADABLE as error:
        logger.error("The stored response of dispatch %s is refused: %s", dispatch_id, redacted(error))
        return None
    sealed = stored.get("sealed") if isinstance(stored, dict) else None
    return sealed if isinstance(sealed, str) else None


@database.results_too()
def _stored(task_id: str) -> Any:
    app = get_app()
    try:
        if not app.conf.task_always_eager:
            return app.backend.get_task_meta(task_id, cache=False).get("result")
        with warnings.catch_warnings():  # Celery warns that eager results are not stored, but those of the replay are
            warnings.simplefilter("ignore", RuntimeWarning)
            return app.backend.get_task_meta(task_id, cache=False).get("result")
    except UNREADABLE:
        raise
    except Exception as error:
        logger.error("The result store cannot be read: %s", redacted(error))
        raise UnavailableError("the result store cannot be read") from error
