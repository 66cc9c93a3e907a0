"""Row locks held by others: background threads do not wait for them for long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import OperationalError, connections

from broker_django.conf import conf
from broker_django.models import database

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITED = "request_broker_lock_wait"
"""The attribute of a connection that records which session has the limit."""

_LIMIT: dict[str, Callable[[float], str]] = {
    "postgresql": lambda seconds: f"SET lock_timeout TO '{seconds * 1000:.0f}ms'",
    "mysql": lambda seconds: f"SET SESSION innodb_lock_wait_timeout = {max(round(seconds), 1)}",
}

_TIMEOUTS = {"55P03", 1205}
"""lock_not_available in PostgreSQL, ER_LOCK_WAIT_TIMEOUT in MySQL and MariaDB."""


def patience() -> float:
    """Seconds. A thread that renews several leases must reach all of them in time."""
    return min(2.0, conf.LEASE / 20)


def limit_waits() -> None:
    """Make this thread wait for a lock in the ledger for at most a small part of a lease. Raises django.db.Error.

    SQLite locks the whole database, and its option `timeout` applies. A pgbouncer session is not changed, because
    others will use it. Django's pool resets the limit when the connection is returned.
    """
    connection = connections[database.alias()]
    statement = _LIMIT.get(connection.vendor)
    if statement is None or connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        return
    connection.ensure_connection()
    pooled = connection.settings_dict["OPTIONS"].get("pool")
    if pooled or getattr(connection, LIMITED, None) is not connection.connection:
        with connection.cursor() as cursor:
            cursor.execute(statement(patience()))
        setattr(connection, LIMITED, connection.connection)


def is_timeout(error: Exception) -> bool:
    """Whether a statement failed because another session has locked its row."""
    cause: Any = error.__cause__
    if not isinstance(error, OperationalError):
        return False
    codes = {getattr(cause, "sqlstate", None), getattr(cause, "pgcode", None), *getattr(cause, "args", ())[:1]}
    return not _TIMEOUTS.isdisjoint(code for code in codes if isinstance(code, str | int))
