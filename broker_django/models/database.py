"""The one database of the broker's tables, whatever a request makes the project's routers say.

Projects with a database for each tenant have routers that choose by request. A dispatch that was written where such a
router points would be looked for elsewhere, by the worker and by the poll of another host.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from contextvars import Context, ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db import Error as DatabaseFailure
from django.db.utils import ConnectionRouter
from django.test import signals as _before_ours  # noqa: F401 - it makes the list of routers anew when settings change

from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.models import Model

logger = logging.getLogger("broker_django.models.database")

OURS = DispatchRecord._meta.app_label
RESULTS = "django_celery_results"

_with_results: ContextVar[bool] = ContextVar("request_broker.with_results", default=False)


def alias() -> str:
    """Where the ledger is: `DATABASE`, or what the project's routers say outside of any request."""
    return conf.DATABASE or outside_of_requests(DispatchRecord)


def alias_of(model: type[Model]) -> str:
    """The same for any model; what is not the broker's goes where its router says now."""
    return alias() if model._meta.app_label == OURS else router.db_for_write(model)


def vendor() -> str:
    """What the ledger's database is, as Django says: sqlite, postgresql, mysql."""
    return connections[alias()].vendor


def in_transaction() -> bool:
    """Whether this thread may have written a dispatch that no other connection sees yet."""
    connection = connections[alias()]
    return bool(connection.connection) and (connection.in_atomic_block or not connection.autocommit)


def let_writers_be() -> None:
    """Have this thread's reads lock no table of a database in memory, as those of tests are.

    Connections to one share its cache: a writer does not wait for a reader there, but fails.
    """
    connection: Any = connections[alias()]
    if connection.connection is None and connection.vendor == "sqlite" and connection.is_in_memory_db():
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA read_uncommitted = 1")


@contextlib.contextmanager
def results_too() -> Iterator[None]:
    """Within the block, stored responses are read and written beside the ledger too.

    Elsewhere the results of the project's own tasks are where its routers say.
    """
    token = _with_results.set(True)
    try:
        yield
    finally:
        _with_results.reset(token)


def _alias_of_results(model: type[Model]) -> str:
    named = conf.DATABASE
    return named if named and router.allow_migrate_model(named, model) else outside_of_requests(model)


@lru_cache(maxsize=8)
def outside_of_requests(model: type[Model]) -> str:
    """What the project's routers say where there is no request. They are asked once a process.

    Raises django.db.Error if a router that looks into a database gets no answer: it is asked again then.
    """
    try:
        return ask_routers(model)
    except DatabaseFailure:
        raise
    except Exception as error:  # noqa: BLE001 - a router may insist on a request; `check` says so too
        logger.warning("The routers name no database for %s: %s", model._meta.label, redacted(error))
        return DEFAULT_DB_ALIAS


def ask_routers(model: type[Model] = DispatchRecord) -> str:
    """Ask the project's routers in a thread and a context of their own: they may look into those for the request.

    Raises whatever they raise.
    """
    theirs = ConnectionRouter([each for each in router.routers if not isinstance(each, BrokerRouter)])
    if not theirs.routers:
        return DEFAULT_DB_ALIAS
    said: list[str | Exception] = []

    def ask() -> None:
        try:
            said.append(Context().run(theirs.db_for_write, model))
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            said.append(error)
        finally:
            connections.close_all()  # a router may have a table of its own

    thread = threading.Thread(target=ask, name="request-broker-database", daemon=True)
    thread.start()
    thread.join()
    [answer] = said
    if isinstance(answer, Exception):
        raise answer
    return answer


class BrokerRouter:
    """Comes before the project's routers, and speaks for the broker's models alone.

    A row that was read from another database on purpose, with `using`, stays with it.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        label = model._meta.app_label
        if label == OURS:
            instance = hints.get("instance")
            return _own_database(instance) or alias()
        return _alias_of_results(model) if label == RESULTS and _with_results.get() else None

    db_for_write = db_for_read

    def allow_relation(self, one: Model, other: Model, **_hints: Any) -> bool | None:
        if one._meta.app_label == other._meta.app_label == OURS:
            return one._state.db == other._state.db
        return None


def _own_database(instance: Model | None) -> str | None:
    return instance._state.db if instance is not None and instance._meta.app_label == OURS else None


def come_first() -> None:
    """Have our models asked for before the project's routers, if there are any. The app calls it when it is ready."""
    needed = conf.DATABASE or router.routers
    if needed and not any(isinstance(each, BrokerRouter) for each in router.routers):
        router.routers.insert(0, BrokerRouter())


def start_afresh(*, setting: str, **_: Any) -> None:
    """A receiver of `setting_changed`: tests change settings."""
    if setting in {"DATABASES", "DATABASE_ROUTERS", "REQUEST_BROKER"}:
        outside_of_requests.cache_clear()
        come_first()


setting_changed.connect(start_afresh, dispatch_uid="request_broker.database")
