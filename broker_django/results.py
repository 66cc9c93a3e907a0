"""Stored responses, and the Celery result backend over django-celery-results."""

from __future__ import annotations

import logging
import uuid
import warnings
from typing import TYPE_CHECKING, Any

from celery import states
from django.db import router, transaction
from django.db.models.constants import OnConflict
from django.utils import timezone
from django_celery_results.backends.database import DatabaseBackend as ResultsBackend
from kombu.exceptions import ContentDisallowed, DecodeError

from broker_core.errors import EnvelopeError, MessageError, UnavailableError
from broker_core.message import ResponseMessage
from broker_django import ledger, statements
from broker_django.celery_app import TASK, get_app
from broker_django.delivery import open_response
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from django.db.models import QuerySet

logger = logging.getLogger("broker_django.results")

CHUNK = 1_000


class DatabaseBackend(ResultsBackend):  # type: ignore[misc] # untyped
    """Keeps a terminal state terminal, in two statements at most, and deletes what expired in chunks.

    A dispatch is finished in the ledger in the transaction that stores its response, where both are in one database.
    """

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
        rows = self.TaskModel._default_manager.using(using)
        alias = using or router.db_for_write(self.TaskModel)
        ends_a_dispatch = status == states.SUCCESS and getattr(request, "task", None) == TASK
        if not ends_a_dispatch or alias != router.db_for_write(DispatchRecord):
            self._write(rows, task_id, values)
        else:
            with transaction.atomic(alias):
                self._write(rows, task_id, values)
                request.finished = ledger.finish(uuid.UUID(task_id), result["attempt"], ledger.Outcome.of(result))
        return content

    def _write(self, rows: QuerySet[Any], task_id: str, values: dict[str, Any]) -> None:
        if not statements.insert(self.TaskModel(task_id=task_id, **values), OnConflict.IGNORE):
            unfinished = rows.filter(task_id=task_id).exclude(status__in=states.READY_STATES)
            unfinished.update(**values, date_done=timezone.now())

    def cleanup(self) -> None:
        """Delete what is older than `result_expires`, a chunk at a time so that no lock is held for long."""
        if not self.expires:
            return
        for model in (self.TaskModel, self.GroupModel):
            expired = model._default_manager.get_all_expired(self.expires).order_by("pk").values_list("pk", flat=True)
            while chunk := list(expired[:CHUNK]):
                model._default_manager.filter(pk__in=chunk).delete()


def fetch(dispatch_id: uuid.UUID) -> ResponseMessage | None:
    """The stored response of a dispatch; None where there is none any more, or where it was tampered with.

    Raises UnavailableError where the result store does not answer.
    """
    try:
        stored = _stored(str(dispatch_id))
        if not isinstance(stored, dict) or not isinstance(stored.get("sealed"), str):
            return None
        return ResponseMessage.decode(open_response(stored["sealed"], str(dispatch_id)))
    except (EnvelopeError, MessageError, DecodeError, ContentDisallowed) as error:
        logger.error("The stored response of dispatch %s is refused: %s", dispatch_id, error)
        return None


def _stored(task_id: str) -> Any:
    app = get_app()
    try:
        if not app.conf.task_always_eager:
            return app.backend.get_task_meta(task_id, cache=False).get("result")
        with warnings.catch_warnings():  # Celery warns that eager results are not stored, but those of the replay are
            warnings.simplefilter("ignore", RuntimeWarning)
            return app.backend.get_task_meta(task_id, cache=False).get("result")
    except (DecodeError, ContentDisallowed):
        raise
    except Exception as error:
        logger.exception("The result store cannot be read")
        raise UnavailableError("the result store cannot be read") from error
