"""Record the state of database connections when they are opened, to detect later what a view changed."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from django.db.backends.signals import connection_created

from workers.databases.database_settings import database_settings

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

FRESH = "request_broker_fresh"
"""The attribute of a connection that contains its original state."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The original state of a connection; of its wrapper, the state when it was opened for the first time.

    configured: whether its database had the settings that the worker started with.
    """

    raw: Any
    wrapper: tuple[Any, ...]
    driver: tuple[Any, ...]
    session: tuple[Any, ...] | None
    configured: bool = True


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.opened: WeakSet[BaseDatabaseWrapper] = WeakSet()


of_thread = _OfThread()
"""All connections opened in this thread, even if they are no longer in `django.db.connections`."""


of_pools: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()
"""The state of each pooled connection when it was first used."""


def watch_opening() -> None:
    """Record the state of each connection when it is opened."""
    connection_created.connect(record, dispatch_uid="request_broker.fresh", weak=False)
    connection_created.connect(_record_changed_wrapper, dispatch_uid="request_broker.before", weak=False)
    with connection_created.lock:  # before any receiver of the project changes the wrapper
        connection_created.receivers.insert(0, connection_created.receivers.pop())


def _record_changed_wrapper(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Record that a wrapper was changed before it was first opened."""
    if not hasattr(connection, FRESH) and _wrapper_state(connection) != UNCHANGED:
        setattr(connection, FRESH, Opened(None, UNCHANGED, (), None))


def record(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Receiver of `connection_created`: record the state of a connection that has just been opened."""
    before: Opened | None = getattr(connection, FRESH, None)
    if before is not None and before.raw is connection.connection:
        return
    of_thread.opened.add(connection)
    if getattr(connection, "pool", None):
        of_pools.setdefault(connection.connection, driver_state(connection.vendor, connection.connection))
    opened = Opened(
        connection.connection,
        before.wrapper if before else _wrapper_state(connection),
        driver_state(connection.vendor, connection.connection),
        sqlite_state(connection),
        database_settings.are_kept(connection.alias),
    )
    setattr(connection, FRESH, opened)


def is_as_opened(connection: BaseDatabaseWrapper) -> bool:
    """Whether the connection's state in this process is unchanged. Unknown connections count as changed."""
    opened: Opened = getattr(connection, FRESH, Opened(None, UNCHANGED, (), None))
    if opened.wrapper != _wrapper_state(connection):
        return False
    if connection.connection is None:
        return True
    raw = connection.connection
    return opened.raw is raw and opened.configured and opened.driver == driver_state(connection.vendor, raw)


UNCHANGED: tuple[Any, ...] = ((), False, {})


def _wrapper_state(connection: BaseDatabaseWrapper) -> tuple[Any, ...]:
    """Returns the attributes of the wrapper that affect statements, even after the connection was reopened."""
    methods = type(connection)
    replaced = {name: value for name, value in vars(connection).items() if callable(getattr(methods, name, None))}
    return tuple(connection.execute_wrappers), connection.force_debug_cursor, replaced


_DRIVER_ATTRIBUTES = {
    "postgresql": (
        "autocommit",
        "isolation_level",
        "read_only",
        "readonly",
        "deferrable",
        "prepare_threshold",
        "prepared_max",
        "row_factory",
        "cursor_factory",
        "server_cursor_factory",
    ),
    "sqlite": ("isolation_level", "row_factory", "text_factory"),
}
"""For psycopg 3 (`read_only`), psycopg2 (`readonly`) and sqlite3."""

_SQLITE_LIMITS = tuple(
    value for name, value in vars(sqlite3).items() if name.startswith("SQLITE_LIMIT_") and isinstance(value, int)
)


def driver_state(vendor: str, raw: Any) -> tuple[Any, ...]:
    if raw is None:
        return ()
    state = [getattr(raw, name, None) for name in _DRIVER_ATTRIBUTES.get(vendor, ())]
    if vendor == "sqlite":
        state += [raw.getlimit(limit) for limit in _SQLITE_LIMITS]
    return tuple(state)


_PRAGMAS = (
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "cell_size_check",
    "checkpoint_fullfsync",
    "count_changes",
    "defer_foreign_keys",
    "foreign_keys",
    "full_column_names",
    "fullfsync",
    "ignore_check_constraints",
    "journal_mode",
    "journal_size_limit",
    "legacy_alter_table",
    "locking_mode",
    "max_page_count",
    "query_only",
    "read_uncommitted",
    "recursive_triggers",
    "reverse_unordered_selects",
    "secure_delete",
    "short_column_names",
    "synchronous",
    "temp_store",
    "threads",
    "trusted_schema",
    "writable_schema",
)
_SQLITE_STATE = f"""SELECT
(SELECT count(*) FROM sqlite_temp_master),
(SELECT group_concat(file) FROM pragma_database_list),
{", ".join(f"(SELECT * FROM pragma_{name})" for name in _PRAGMAS)}"""  # noqa: S608 - only our own names
_NO_TABLES = ("PRAGMA mmap_size", "PRAGMA wal_autocheckpoint")


def sqlite_state(connection: BaseDatabaseWrapper) -> tuple[Any, ...] | None:
    raw = connection.connection
    if connection.vendor != "sqlite" or raw is None:
        return None
    statements = (_SQLITE_STATE, *_NO_TABLES)
    return tuple(raw.execute(statement).fetchone() for statement in statements)
