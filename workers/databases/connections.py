"""Clean database connections between tasks: none keeps a transaction or session state that a view left behind.

A connection in a transaction is closed. Session state (from `SET`, `SET ROLE`, `LISTEN`, temporary tables, advisory
locks or `PRAGMA`) is reset on PostgreSQL and compared on SQLite; connections of other databases are closed. Wrappers,
driver attributes and database settings are compared with their original state. Connections of Django's pool are
returned after each task and reset there, because a view may have returned one itself.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from broker_core.redaction import redacted
from broker_django.conf import conf
from workers.databases.connection_state import (
    FRESH,
    driver_state,
    is_as_opened,
    of_pools,
    of_thread,
    record,
    sqlite_state,
    watch_opening,
)
from workers.databases.database_settings import database_settings

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("workers.databases.connections")

IDLE = 0
"""PQTRANS_IDLE (libpq), as psycopg and psycopg2 report it."""


def drop_unfit() -> None:
    """Drop this thread's connections that are in a transaction. The project's own tasks may have left one."""
    _drop_unless(lambda _connection: True, "a task left a transaction open")


def _drop_unless(is_fit: Callable[[BaseDatabaseWrapper], bool], reason: str) -> None:
    """Drop connections that Django did not make with the original settings, that are in a transaction, or that are not
    fit.
    """
    changed = database_settings.restore()
    for alias, connection in _all():
        if alias in changed or not _is_made_by_django(alias, connection):
            _drop(alias, connection, "")
        elif not _is_idle(connection):
            _drop(alias, connection, reason)
        elif not is_fit(connection):
            _drop(alias, connection, "")


def clean() -> None:
    """Undo a view's changes to this thread's connections, for the next task. Raises nothing."""
    try:
        _leave_tenants()
        _drop_unless(lambda each: is_as_opened(each) and _is_reset(each), "a transaction was left open")
        _close_replaced()
    except Exception as error:  # noqa: BLE001 - the outcome of the view must still be recorded
        logger.error("The connections could not be cleaned and are replaced: %s", redacted(error))
        replace_all()


def _leave_tenants() -> None:
    """A connection of django-tenants keeps its last schema, even after it is closed."""
    for _, connection in _all():
        leave: Any = getattr(connection, "set_schema_to_public", None)
        if leave is not None:
            leave()


def replace_all() -> None:
    """Make this thread reconnect: the server may accept a new connection after it refused the old one."""
    database_settings.restore()
    for alias, connection in _all():
        _drop(alias, connection, "")


def watch() -> None:
    """Record the state of each connection when it is opened, and the settings of each database as they are now."""
    watch_opening()
    keep_settings()
    for _, connection in _all():
        if connection.connection is None:
            record(connection)


def keep_settings(**_: Any) -> None:
    """Record the settings of each database as they are now."""
    database_settings.keep()


def watch_pools() -> None:
    """Make Django's pools reset returned connections, and leave the pools to the parent if this process is forked."""
    pooled = _pooled()
    for alias in pooled:
        options = connections.settings[alias]["OPTIONS"]
        given = {} if options["pool"] is True else options["pool"]
        connections[alias].close_pool()  # type: ignore[attr-defined] # of PostgreSQL
        options["pool"] = {**given, "reset": _resetting(alias, given.get("reset"))}
    if pooled:
        os.register_at_fork(after_in_child=_leave_pools)


def is_pooled(database: dict[str, Any]) -> bool:
    """Whether Django keeps this database's connections in a pool."""
    return bool(database["OPTIONS"].get("pool"))


def _pooled() -> list[str]:
    """Returns the databases with a psycopg pool. Oracle's pool resets its sessions itself."""
    return [each for each in connections if is_pooled(connections.settings[each]) and _is_postgresql(each)]


def _is_postgresql(alias: str) -> bool:
    return connections[alias].vendor == "postgresql"


def _resetting(alias: str, further: Callable[[Any], None] | None) -> Callable[[Any], None]:
    """Returns the function that psycopg's pool calls to reset a returned connection. If that fails, it is closed."""

    def reset(raw: Any) -> None:
        if raw in of_pools and of_pools[raw] != driver_state("postgresql", raw):
            raise ValueError("a view has changed attributes of the driver's connection")
        with raw.cursor() as cursor:
            cursor.execute("DISCARD ALL" if conf.RESET_CONNECTIONS else "RESET lock_timeout")
        wrapper: Any = connections.create_connection(alias)
        wrapper._configure_connection(raw)  # Django's pool does it only for new connections
        if further is not None:
            further(raw)

    return reset


_inherited: list[Any] = []
"""Pools inherited from the parent process. Closing them would close the parent's connections."""


def _leave_pools() -> None:
    for alias in _pooled():
        pools: dict[str, Any] = connections[alias]._connection_pools  # type: ignore[attr-defined] # of PostgreSQL
        _inherited.append(pools.pop(alias, None))


def _all() -> list[tuple[str, BaseDatabaseWrapper]]:
    """Returns open and closed connections: a closed one is used again, with whatever a view left in it."""
    return [(alias, connections[alias]) for alias in connections if hasattr(connections._connections, alias)]  # type: ignore[attr-defined]


def _is_made_by_django(alias: str, connection: Any) -> bool:
    """Whether it is Django's. A view may have replaced it."""
    if not isinstance(connection, BaseDatabaseWrapper) or connection.alias != alias:
        return False
    return bool(connection.settings_dict == connections.settings[alias])


def _close_replaced() -> None:
    """Close connections in a transaction that a view removed from `django.db.connections`."""
    current = [connection for _, connection in _all()]
    for connection in list(of_thread.opened):
        if connection.connection is not None and connection not in current and not _is_idle(connection):
            logger.warning("A connection %r is closed: a transaction was left open", connection.alias)
            _close(connection)


def _drop(alias: str, connection: Any, reason: str) -> None:
    """Close the connection and delete its wrapper, which may believe that it is in a transaction."""
    if reason:
        logger.warning("The connection %r is closed: %s", alias, reason)
    if isinstance(connection, BaseDatabaseWrapper):
        _close(connection)
    if connections[alias] is connection:
        del connections[alias]


def _close(connection: Any) -> None:
    """Forget the connection, too: Django treats one that it closed inside of `atomic()` as still in a transaction."""
    of_thread.opened.discard(connection)
    raw = connection.connection
    try:
        if raw is not None and getattr(connection, "pool", None):  # otherwise the pool would reuse it
            raw.close()
        connection.close()
    except Exception as error:  # noqa: BLE001 - the connection is not used again
        logger.info("The connection %r could not be closed: %s", connection.alias, redacted(error))


def _is_idle(connection: BaseDatabaseWrapper) -> bool:
    """Whether it is outside of any transaction, according to both Django and the driver."""
    if connection.in_atomic_block or connection.run_on_commit or connection.needs_rollback:
        return False
    if connection.connection is None:
        return True
    try:
        if connection.get_autocommit() != connection.settings_dict["AUTOCOMMIT"]:
            return False
        return bool(_DRIVER_IS_IDLE.get(connection.vendor, _roll_back)(connection.connection))
    except Exception as error:  # noqa: BLE001 - each driver has its own errors
        logger.info("The connection %r can no longer be used: %s", connection.alias, redacted(error))
        return False


def _roll_back(raw: Any) -> bool:
    """For drivers that do not report the transaction status."""
    raw.rollback()
    return True


_DRIVER_IS_IDLE: dict[str, Any] = {
    "postgresql": lambda raw: not raw.closed and raw.info.transaction_status == IDLE,
    "sqlite": lambda raw: not raw.in_transaction,
}


def _is_reset(connection: BaseDatabaseWrapper) -> bool:
    return connection.connection is None or not conf.RESET_CONNECTIONS or _reset(connection)


def _reset(connection: BaseDatabaseWrapper) -> bool:
    """Returns whether the session is in its original state, or could be reset."""
    try:
        if connection.vendor == "sqlite":
            return bool(getattr(connection, FRESH).session == sqlite_state(connection))
        if connection.vendor == "postgresql":
            if getattr(connection, "pool", None):
                connection.close()  # the pool resets it
            else:
                _discard_all(connection)
            return True
    except Exception as error:  # noqa: BLE001 - each driver has its own errors
        logger.info("The connection %r cannot be reset: %s", connection.alias, redacted(error))
    return False


def _discard_all(connection: Any) -> None:
    """Restore the original state: Django's own settings, and those of the project's `connection_created` receivers."""
    with connection.connection.cursor() as cursor:
        cursor.execute("DISCARD ALL")
    connection.init_connection_state()
    connection_created.send(sender=type(connection), connection=connection)
