"""Database connections between two tasks: none keeps a transaction, or a state of its session, that a view left.

A connection that is in a transaction is closed. The state of a session (what `SET`, `SET ROLE`, `LISTEN`, temporary
tables, advisory locks or `PRAGMA` leave) is reset on PostgreSQL and compared on SQLite; other databases are closed.
A connection of Django's pool goes back after each task, and is reset there: a view may have given it back itself.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.backends.signals import connection_created

from broker_core.redaction import redacted
from broker_django.conf import conf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("workers.connections")

FRESH = "request_broker_fresh"
"""The attribute of a connection under which it is kept how it was when it was opened."""

IDLE = 0
"""PQTRANS_IDLE (libpq), which psycopg and psycopg2 hand on."""


def drop_unfit() -> None:
    """Drop each connection of this thread that is in a transaction. Tasks of the project may have left one."""
    for connection in _open():
        if not _is_idle(connection):
            _drop(connection, "a task left a transaction open")


def clean() -> None:
    """Give no connection of this thread to the next task as a view has changed it."""
    for connection in _open():
        if not _is_idle(connection):
            _drop(connection, "a transaction was left open")
        elif not _is_as_opened(connection) or (conf.RESET_CONNECTIONS and not _reset(connection)):
            _drop(connection, "")


def replace_all() -> None:
    """Have this thread connect anew: whatever a database refused, a new connection may be allowed."""
    for connection in _open():
        _drop(connection, "")


def watch() -> None:
    """Keep how each connection is when it is opened."""
    connection_created.connect(_note_fresh, dispatch_uid="request_broker.fresh", weak=False)


def watch_pools() -> None:
    """Have Django's pools reset what they take back, and leave them to the parent when this process is forked."""
    for alias in _pooled():
        options = connections.settings[alias]["OPTIONS"]
        given = {} if options["pool"] is True else options["pool"]
        connections[alias].close_pool()  # type: ignore[attr-defined] # of PostgreSQL
        options["pool"] = {**given, "reset": _resetting(alias, given.get("reset"))}
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


def _open() -> Iterator[BaseDatabaseWrapper]:
    """Those that are connected, and those that cannot be: a view closed them inside of `atomic()`."""
    for each in connections.all(initialized_only=True):
        if each.connection is not None or each.in_atomic_block:
            yield each


def _drop(connection: BaseDatabaseWrapper, reason: str) -> None:
    """Close it and forget its wrapper, which may believe to be in a transaction."""
    if reason:
        logger.warning("The connection %r is closed: %s", connection.alias, reason)
    raw = connection.connection
    try:
        if raw is not None and getattr(connection, "pool", None):  # the pool would hand out what a view left
            raw.close()
        connection.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, the connection is not used again
        logger.info("The connection %r did not close well: %s", connection.alias, redacted(error))
    if connections[connection.alias] is connection:
        del connections[connection.alias]


def _is_idle(connection: BaseDatabaseWrapper) -> bool:
    """Whether it is in no transaction, by what Django knows of it and by what its driver knows."""
    if connection.in_atomic_block or connection.run_on_commit or connection.needs_rollback:
        return False
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


def _note_fresh(connection: BaseDatabaseWrapper, **_: Any) -> None:
    if hasattr(connection, FRESH) and getattr(connection, FRESH)[0] is connection.connection:
        return
    setattr(connection, FRESH, (connection.connection, _python_state(connection), _sqlite_state(connection)))


def _is_as_opened(connection: BaseDatabaseWrapper) -> bool:
    """Whether nothing of it in this process is different. One that nobody saw opened is."""
    raw, python_state, _ = getattr(connection, FRESH, (None, None, None))
    return raw is connection.connection and python_state == _python_state(connection)


def _python_state(connection: BaseDatabaseWrapper) -> tuple[Any, ...]:
    return (
        tuple(connection.execute_wrappers),
        connection.force_debug_cursor,
        connection.settings_dict.get("TIME_ZONE"),
    )


def _reset(connection: BaseDatabaseWrapper) -> bool:
    """Whether the session is as it was when it was opened, or has been made so."""
    try:
        if connection.vendor == "sqlite":
            return bool(getattr(connection, FRESH)[2] == _sqlite_state(connection))
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


_PRAGMAS = (
    "query_only",
    "foreign_keys",
    "defer_foreign_keys",
    "ignore_check_constraints",
    "read_uncommitted",
    "recursive_triggers",
    "synchronous",
    "busy_timeout",
    "locking_mode",
    "writable_schema",
)
_SQLITE_STATE = f"""SELECT
(SELECT count(*) FROM sqlite_temp_master),
(SELECT group_concat(file) FROM pragma_database_list),
{", ".join(f"(SELECT * FROM pragma_{name})" for name in _PRAGMAS)}"""  # noqa: S608 - names of our own


def _sqlite_state(connection: BaseDatabaseWrapper) -> tuple[Any, ...] | None:
    if connection.vendor != "sqlite":
        return None
    raw = connection.connection
    found: tuple[Any, ...] = raw.execute(_SQLITE_STATE).fetchone()
    return (*found, raw.isolation_level, raw.row_factory, raw.text_factory)
