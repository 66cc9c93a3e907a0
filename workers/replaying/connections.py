"""Database connections between two tasks: none keeps a transaction, or a state of its session, that a view left.

A connection that is in a transaction is closed. The state of a session (what `SET`, `SET ROLE`, `LISTEN`, temporary
tables, advisory locks or `PRAGMA` leave) is reset on PostgreSQL and compared on SQLite; other databases are closed.
Wrappers, drivers' attributes and the settings of databases are compared with what they were. A connection of Django's
pool goes back after each task, and is reset there: a view may have given it back itself.
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
from workers.replaying.connection_state import (
    FRESH,
    driver_state,
    is_as_opened,
    of_pools,
    of_thread,
    record,
    sqlite_state,
    watch_opening,
)
from workers.replaying.database_settings import database_settings

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("workers.replaying.connections")

IDLE = 0
"""PQTRANS_IDLE (libpq), which psycopg and psycopg2 hand on."""


def drop_unfit() -> None:
    """Drop each connection of this thread that is in a transaction. Tasks of the project may have left one."""
    _drop_unless(lambda _connection: True, "a task left a transaction open")


def _drop_unless(is_fit: Callable[[BaseDatabaseWrapper], bool], reason: str) -> None:
    """Drop each that Django has not made by the settings as they were, is in a transaction, or is not fit."""
    changed = database_settings.put_back()
    for alias, connection in _all():
        if alias in changed or not _is_made_by_django(alias, connection):
            _drop(alias, connection, "")
        elif not _is_idle(connection):
            _drop(alias, connection, reason)
        elif not is_fit(connection):
            _drop(alias, connection, "")


def clean() -> None:
    """Give no connection of this thread to the next task as a view has changed it. Raises nothing."""
    try:
        _leave_tenants()
        _drop_unless(lambda each: is_as_opened(each) and _is_reset(each), "a transaction was left open")
        _close_replaced()
    except Exception as error:  # noqa: BLE001 - a view ran, and its outcome has to be recorded
        logger.error("The connections are replaced, they could not be cleaned: %s", redacted(error))
        replace_all()


def _leave_tenants() -> None:
    """A connection of django-tenants keeps the schema that it was told last, also once it is closed."""
    for _, connection in _all():
        leave: Any = getattr(connection, "set_schema_to_public", None)
        if leave is not None:
            leave()


def replace_all() -> None:
    """Have this thread connect again: whatever a database refused, a new connection may be allowed."""
    database_settings.put_back()
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
    """Have Django's pools reset what they take back, and leave them to the parent when this process is forked."""
    pooled = _pooled()
    for alias in pooled:
        options = connections.settings[alias]["OPTIONS"]
        given = {} if options["pool"] is True else options["pool"]
        connections[alias].close_pool()  # type: ignore[attr-defined] # of PostgreSQL
        options["pool"] = {**given, "reset": _resetting(alias, given.get("reset"))}
    if pooled:
        os.register_at_fork(after_in_child=_leave_pools)


def is_pooled(database: dict[str, Any]) -> bool:
    """Whether Django keeps its connections in a pool, by the settings of a database."""
    return bool(database["OPTIONS"].get("pool"))


def _pooled() -> list[str]:
    """The databases of which Django has a pool of psycopg's; that of Oracle resets its sessions itself."""
    return [each for each in connections if is_pooled(connections.settings[each]) and _is_postgresql(each)]


def _is_postgresql(alias: str) -> bool:
    return connections[alias].vendor == "postgresql"


def _resetting(alias: str, further: Callable[[Any], None] | None) -> Callable[[Any], None]:
    """Make what psycopg's pool calls with each connection that comes back; one that cannot be reset is closed."""

    def reset(raw: Any) -> None:
        if raw in of_pools and of_pools[raw] != driver_state("postgresql", raw):
            raise ValueError("a view has changed attributes of the driver's connection")
        with raw.cursor() as cursor:
            cursor.execute("DISCARD ALL" if conf.RESET_CONNECTIONS else "RESET lock_timeout")
        wrapper: Any = connections.create_connection(alias)
        wrapper._configure_connection(raw)  # Django has the pool do it, for new connections only
        if further is not None:
            further(raw)

    return reset


_inherited: list[Any] = []
"""Pools of the process that was forked. To close them would close its connections."""


def _leave_pools() -> None:
    for alias in _pooled():
        pools: dict[str, Any] = connections[alias]._connection_pools  # type: ignore[attr-defined] # of PostgreSQL
        _inherited.append(pools.pop(alias, None))


def _all() -> list[tuple[str, BaseDatabaseWrapper]]:
    """Open or not: a closed one is used again, with whatever a view left in it."""
    return [(alias, connections[alias]) for alias in connections if hasattr(connections._connections, alias)]  # type: ignore[attr-defined]


def _is_made_by_django(alias: str, connection: Any) -> bool:
    """A view may have put something else in its place."""
    if not isinstance(connection, BaseDatabaseWrapper) or connection.alias != alias:
        return False
    return bool(connection.settings_dict == connections.settings[alias])


def _close_replaced() -> None:
    """Close what a view left in a transaction and took out of `django.db.connections`."""
    current = [connection for _, connection in _all()]
    for connection in list(of_thread.opened):
        if connection.connection is not None and connection not in current and not _is_idle(connection):
            logger.warning("A connection %r is closed: a transaction was left open", connection.alias)
            _close(connection)


def _drop(alias: str, connection: Any, reason: str) -> None:
    """Close it and forget its wrapper, which may believe to be in a transaction."""
    if reason:
        logger.warning("The connection %r is closed: %s", alias, reason)
    if isinstance(connection, BaseDatabaseWrapper):
        _close(connection)
    if connections[alias] is connection:
        del connections[alias]


def _close(connection: Any) -> None:
    """It is not looked at again: Django keeps what it closes inside of `atomic()` as a connection in a transaction."""
    of_thread.opened.discard(connection)
    raw = connection.connection
    try:
        if raw is not None and getattr(connection, "pool", None):  # the pool would hand out what a view left
            raw.close()
        connection.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, the connection is not used again
        logger.info("The connection %r did not close well: %s", connection.alias, redacted(error))


def _is_idle(connection: BaseDatabaseWrapper) -> bool:
    """Whether it is in no transaction, by what Django knows of it and by what its driver knows."""
    if connection.in_atomic_block or connection.run_on_commit or connection.needs_rollback:
        return False
    if connection.connection is None:
        return True
    try:
        if connection.get_autocommit() != connection.settings_dict["AUTOCOMMIT"]:
            return False
        return bool(_DRIVER_IS_IDLE.get(connection.vendor, _roll_back)(connection.connection))
    except Exception as error:  # noqa: BLE001 - every driver has errors of its own
        logger.info("The connection %r is of no use any more: %s", connection.alias, redacted(error))
        return False


def _roll_back(raw: Any) -> bool:
    """For drivers that do not tell."""
    raw.rollback()
    return True


_DRIVER_IS_IDLE: dict[str, Any] = {
    "postgresql": lambda raw: not raw.closed and raw.info.transaction_status == IDLE,
    "sqlite": lambda raw: not raw.in_transaction,
}


def _is_reset(connection: BaseDatabaseWrapper) -> bool:
    return connection.connection is None or not conf.RESET_CONNECTIONS or _reset(connection)


def _reset(connection: BaseDatabaseWrapper) -> bool:
    """Whether the session is as it was when it was opened, or has been made so."""
    try:
        if connection.vendor == "sqlite":
            return bool(getattr(connection, FRESH).session == sqlite_state(connection))
        if connection.vendor == "postgresql":
            if getattr(connection, "pool", None):
                connection.close()  # the pool resets it
            else:
                _discard_all(connection)
            return True
    except Exception as error:  # noqa: BLE001 - every driver has errors of its own
        logger.info("The connection %r cannot be reset: %s", connection.alias, redacted(error))
    return False


def _discard_all(connection: Any) -> None:
    """As when it was opened: Django's own settings, and those of the project's receivers of `connection_created`."""
    with connection.connection.cursor() as cursor:
        cursor.execute("DISCARD ALL")
    connection.init_connection_state()
    connection_created.send(sender=type(connection), connection=connection)
