"""Stored responses, and the Celery result backend over django-celery-results."""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import SecurityError
from django.db import router, transaction
from django.db.models.constants import OnConflict
from django.utils import timezone
from django_celery_results.backends.database import DatabaseBackend as ResultsBackend
from kombu.exceptions import ContentDisallowed, DecodeError

from broker_core.errors import EnvelopeError, MessageError, UnavailableError
from broker_core.message import ResponseMessage
from broker_core.redaction import redacted
from broker_django import ledger
from broker_django.conf import conf
from broker_django.ledger import Outcome, statements
from broker_django.messaging.celery_app import get_app
from broker_django.messaging.sealing import open_response
from broker_django.models import database

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection
    from datetime import datetime

    from celery import Celery

    from broker_core.policies import QueuePolicy
    from broker_django.models import DispatchRecord

logger = logging.getLogger("broker_django.ledger.responses")

CHUNK = 1_000

ENDED = frozenset({states.SUCCESS, states.FAILURE})

UNREADABLE = (DecodeError, ContentDisallowed, SecurityError, ValueError, TypeError, LookupError, AttributeError)
"""What reading a result raises that is there, but is none that the broker stored."""


class DatabaseBackend(ResultsBackend):  # type: ignore[misc] # untyped
    """Keeps a terminal state terminal, in two statements at most, and deletes what expired in chunks."""

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
        """Delete what is older than `result_expires`, a chunk at a time so that no lock is held for long."""
        if not self.expires:
            return
        for model in (self.TaskModel, self.GroupModel):
            expired = model._default_manager.get_all_expired(self.expires).order_by("pk").values_list("pk", flat=True)
            while chunk := list(expired[:CHUNK]):
                model._default_manager.filter(pk__in=chunk).delete()


def _final_for(status: str) -> frozenset[str]:
    """The states that this one does not replace. Any worker notes a task as revoked that another one is running."""
    return ENDED if status in ENDED else states.READY_STATES


def _database_backend(app: Celery) -> ResultsBackend | None:
    """What writes results into a database of the project; None if they are elsewhere.

    For `django-db`, which names the backend of django-celery-results, it is ours: of the same table, with one
    statement where that has four.
    """
    backend = app.backend
    if type(backend) is ResultsBackend:
        return _own_backend(app)
    return backend if isinstance(backend, ResultsBackend) else None


@lru_cache(maxsize=4)
def _own_backend(app: Celery) -> DatabaseBackend:
    return DatabaseBackend(app=app)


@database.results_too()
def conclude(
    dispatch_id: uuid.UUID, attempt: int, policy: QueuePolicy, outcome: Outcome, sealed: str, request: Any
) -> bool:
    """Store the sealed response and finish the dispatch; False where another attempt has it by now.

    Both in one transaction where both are in one database. Where the result store does not take the response, the
    ledger keeps it. Raises DatabaseError where the ledger itself does not answer; then nothing is stored.
    """
    app, result = get_app(), _result(attempt, outcome, sealed)
    ttl = policy.results_ttl
    alias = database.alias()
    backend = _database_backend(app)
    if backend is not None and router.db_for_write(backend.TaskModel) == alias:
        with transaction.atomic(using=alias):
            finished = ledger.finish(dispatch_id, attempt, outcome, results_ttl=ttl)
            if finished:
                _forget_earlier(backend, dispatch_id, attempt)
                backend.store_result(str(dispatch_id), result, states.SUCCESS, request=request)
        return finished
    if not ledger.holds(dispatch_id, attempt):
        return False
    kept = None if _store(app.backend, dispatch_id, result, request) else sealed.encode()
    return ledger.finish(dispatch_id, attempt, outcome, results_ttl=ttl, kept_response=kept)


def _result(attempt: int, outcome: Outcome, sealed: str) -> dict[str, Any]:
    """What is stored. The response's facts are in clear, for whoever looks at results."""
    facts = {"status": outcome.status, "content_type": outcome.content_type, "size": outcome.size}
    return {**facts, "error": outcome.error, "attempt": attempt, "sealed": sealed}


@database.results_too()
def _store(backend: Any, dispatch_id: uuid.UUID, result: dict[str, Any], request: Any = None) -> bool:
    try:
        _forget_earlier(backend, dispatch_id, result["attempt"])
        backend.store_result(str(dispatch_id), result, states.SUCCESS, request=request)
    except Exception as error:  # noqa: BLE001 - every result backend has errors of its own
        logger.warning("The result store did not take the response of dispatch %s: %s", dispatch_id, redacted(error))
        return False
    return True


def _forget_earlier(backend: Any, dispatch_id: uuid.UUID, attempt: int) -> None:
    """Result stores keep the first response that they were given: that of an attempt which was lost then, or failed."""
    if attempt > 1:
        backend.forget(str(dispatch_id))


def hand_over(record: DispatchRecord, now: datetime) -> bool:
    """Store the response that the ledger kept; whether the result store took it."""
    outcome = Outcome(record.response_status, record.response_type, record.response_size or 0, record.error)
    sealed = bytes(record.kept_response or b"").decode("ascii", "replace")
    if not _store(get_app().backend, record.pk, _result(record.attempts, outcome, sealed)):
        return False
    policy = conf.queues.get(record.queue)
    drop_at = now + timedelta(seconds=policy.results_ttl) if policy else None
    ledger.rows().filter(pk=record.pk, due_at=record.due_at).update(kept_response=None, due_at=drop_at)
    return True


@database.results_too()
def forget(dispatch_ids: Collection[uuid.UUID]) -> None:
    """Drop the stored responses of these dispatches. What the result store refuses, it drops when it expires."""
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


def fetch(record: DispatchRecord) -> ResponseMessage | None:
    """The stored response of a dispatch; None where there is none any more, or where it was tampered with.

    Raises UnavailableError where the result store does not answer.
    """
    dispatch_id = record.pk
    try:
        if record.kept_response:
            return _opened(bytes(record.kept_response).decode(), record)
        stored = _stored(str(dispatch_id))
        if not isinstance(stored, dict) or not isinstance(stored.get("sealed"), str):
            return None
        return _opened(stored["sealed"], record)
    except (EnvelopeError, MessageError, *UNREADABLE) as error:
        logger.error("The stored response of dispatch %s is refused: %s", dispatch_id, redacted(error))
        return None


def _opened(text: str, record: DispatchRecord) -> ResponseMessage:
    """Raises EnvelopeError for the response of another dispatch or attempt, and MessageError."""
    return ResponseMessage.decode(open_response(text, str(record.pk), record.attempts))


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
