"""What a view may find that an earlier one left behind in its process, thread, context or connection."""

from __future__ import annotations

import decimal
import os
import signal
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection
from django.urls import get_script_prefix
from django.utils import timezone, translation

if TYPE_CHECKING:
    from collections.abc import Iterator

TENANT: ContextVar[str | None] = ContextVar("chaos.tenant", default=None)
SIGNALS = (signal.SIGALRM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

SET_BY_DJANGO = ("TimeZone", "client_encoding")
SESSION = f"""
SELECT 'setting ' || name || ' is ' || setting FROM pg_settings
 WHERE source = 'session' AND name NOT IN {SET_BY_DJANGO}
UNION ALL SELECT 'time zone of the session is ' || current_setting('TimeZone')
 WHERE current_setting('TimeZone') <> 'UTC'
UNION ALL SELECT 'tenant of the session is ' || current_setting('chaos.tenant', true)
 WHERE current_setting('chaos.tenant', true) <> ''
UNION ALL SELECT 'role is ' || current_user WHERE current_user <> session_user
UNION ALL SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
UNION ALL SELECT 'listens to ' || channel FROM pg_listening_channels() AS channel
UNION ALL SELECT 'temporary table ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'
UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable
"""
"""Asks PostgreSQL what was changed in this session, as opposed to the server's configuration."""


def find() -> Iterator[str]:
    """Yields everything that differs from the first view of the process. Call it before the view does anything."""
    yield from _of_process()
    yield from _of_thread()
    yield from _of_connection()


@cache
def _first_seen(_pid: int) -> dict[str, Any]:
    """The state of this process when its first view began, after the pool has set its signal handlers."""
    return _process_state()


def _process_state() -> dict[str, Any]:
    handlers = {signal_.name: signal.getsignal(signal_) for signal_ in SIGNALS}
    return {
        "directory": str(Path.cwd()),
        "umask": _umask(),
        "timers": [signal.getitimer(which)[0] > 0 for which in TIMERS],
        "signal mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        **handlers,
    }


def _umask() -> str:
    """Read the umask without changing it, if the system allows that: other threads would see the change."""
    status = Path("/proc/self/status")
    if status.exists():
        return status.read_text().partition("Umask:")[2].split()[0]
    mask = os.umask(0o077)
    os.umask(mask)
    return f"{mask:04o}"


def _of_process() -> Iterator[str]:
    first = _first_seen(os.getpid())
    for name, now in _process_state().items():
        if now != first[name]:
            yield f"{name} is {getattr(now, '__name__', now)}"


def _of_thread() -> Iterator[str]:
    expected = {
        "context variable": (TENANT.get(), None),
        "time zone": (timezone.get_current_timezone_name(), settings.TIME_ZONE),
        "language": (translation.get_language(), settings.LANGUAGE_CODE),
        "script prefix": (get_script_prefix(), "/"),
        "precision of decimals": (decimal.getcontext().prec, decimal.DefaultContext.prec),
    }
    for name, (now, usual) in expected.items():
        if now != usual:
            yield f"{name} is {now}"


def _of_connection() -> Iterator[str]:
    yield from _of_transaction()
    if connection.execute_wrappers:
        yield "execute wrapper"
    if connection.connection is None:
        return  # a new session contains nothing of an earlier view
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(SESSION)
            yield from (found for (found,) in cursor.fetchall())
        else:
            yield from _of_sqlite(cursor)


def _of_transaction() -> Iterator[str]:
    if connection.in_atomic_block or connection.savepoint_ids or connection.run_on_commit:
        yield "atomic block"
    if connection.connection is not None and not connection.get_autocommit():
        yield "no autocommit"
    if in_transaction():
        yield "open transaction"


def in_transaction() -> bool:
    """Whether the server or the file has an open transaction, even if Django does not know it."""
    driver = connection.connection
    if driver is None:
        return False
    if connection.vendor == "postgresql":
        return bool(driver.info.transaction_status)  # 0 is idle
    return bool(driver.in_transaction)


def _of_sqlite(cursor: Any) -> Iterator[str]:
    for pragma, usual in (("query_only", 0), ("foreign_keys", 1)):
        [now] = cursor.execute(f"PRAGMA {pragma}").fetchone()
        if now != usual:
            yield f"{pragma} is {now}"
    for (name,) in cursor.execute("SELECT name FROM sqlite_temp_master").fetchall():
        yield f"temporary table {name}"
    for _, name, _ in cursor.execute("PRAGMA database_list").fetchall():
        if name not in {"main", "temp"}:
            yield f"attached database {name}"
