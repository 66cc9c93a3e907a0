"""The database alias of the broker's tables, independent of what the project's routers say for a request.

Projects with one database per tenant have routers that choose by request. A dispatch written to a tenant's database
would not be found by the worker, or by a poll of another host.
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
from django.test import signals as _connected_first  # noqa: F401 - its receiver must run before ours

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
    """Returns the alias of the ledger's database: `DATABASE`, or what the project's routers say without a request."""
    return conf.DATABASE or outside_of_requests(DispatchRecord)


def alias_of(model: type[Model]) -> str:
    """Returns the alias for any model. For other apps' models the project's routers decide as usual."""
    return alias() if model._meta.app_label == OURS else router.db_for_write(model)


def vendor() -> str:
    """What the ledger's database is, as Django says: sqlite, postgresql, mysql."""
    return connections[alias()].vendor


def in_transaction() -> bool:
    """Whether this thread may have written a dispatch that other connections cannot see yet."""
    connection = connections[alias()]
    return bool(connection.connection) and (connection.in_atomic_block or not connection.autocommit)


def read_without_locks() -> None:
    """Make this thread's reads lock no table of an in-memory SQLite database, as tests use.

    Its connections share a cache. There, a writer does not wait for a reader, but fails.
    """
    connection: Any = connections[alias()]
    if connection.connection is None and connection.vendor == "sqlite" and connection.is_in_memory_db():
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA read_uncommitted = 1")


@contextlib.contextmanager
def results_too() -> Iterator[None]:
    """Within the block, stored responses are read and written in the ledger's database too.

    Outside of it, the project's routers decide where results are stored.
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
    """Returns what the project's routers say without a request. They are asked once per process.

    Raises django.db.Error if a router cannot query its database. The next call asks it again.
    """
    try:
        return ask_routers(model)
    except DatabaseFailure:
        raise
    except Exception as error:  # noqa: BLE001 - a router may require a request; a system check reports it
        logger.warning("The routers name no database for %s: %s", model._meta.label, redacted(error))
        return DEFAULT_DB_ALIAS


def ask_routers(model: type[Model] = DispatchRecord) -> str:
    """Ask the project's routers in a separate thread and context, because they may look there for the request.

    Raises whatever they raise.
    """
    theirs = ConnectionRouter([each for each in router.routers if not isinstance(each, BrokerRouter)])
    if not theirs.routers:
        return DEFAULT_DB_ALIAS
    answers: list[str | Exception] = []

    def ask() -> None:
        try:
            answers.append(Context().run(theirs.db_for_write, model))
        except Exception as error:  # noqa: BLE001 - the waiting thread raises it
            answers.append(error)
        finally:
            connections.close_all()  # a router may have made a query

    thread = threading.Thread(target=ask, name="request-broker-database", daemon=True)
    thread.start()
    thread.join()
    [answer] = answers
    if isinstance(answer, Exception):
        raise answer
    return answer


class BrokerRouter:
    """Runs before the project's routers, and decides only for the broker's models.

    A row that was read from another database on purpose, with `using`, stays there.
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


def install_router() -> None:
    """Put our router before the project's routers, if there are any. The app calls it in `ready`."""
    needed = conf.DATABASE or router.routers
    if needed and not any(isinstance(each, BrokerRouter) for each in router.routers):
        router.routers.insert(0, BrokerRouter())


def settings_changed(*, setting: str, **_: Any) -> None:
    """Receiver of `setting_changed`, which tests send."""
    if setting in {"DATABASES", "DATABASE_ROUTERS", "REQUEST_BROKER"}:
        outside_of_requests.cache_clear()
        install_router()


setting_changed.connect(settings_changed, dispatch_uid="request_broker.database")
