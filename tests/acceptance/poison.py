"""Views that leave something behind, and one that detects it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import decimal
import locale
import logging
import os
import signal
import socket
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerShutdown, WorkerTerminate
from django.db import Error, connection, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from django.utils import timezone, translation
from django.views.decorators.csrf import csrf_exempt

from tests.site.models import Execution

if TYPE_CHECKING:
    from collections.abc import Callable

TENANT = contextvars.ContextVar("tenant", default="nobody")


def _execute(*statements: str) -> Callable[[], None]:
    def run() -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return run


def _begin() -> None:
    Execution.objects.create(dispatch="before the transaction")
    _execute("BEGIN")()
    Execution.objects.create(dispatch="never committed")


def _atomic() -> None:
    transaction.atomic().__enter__()
    Execution.objects.create(dispatch="never committed")


def _broken_atomic() -> None:
    _atomic()
    transaction.set_rollback(True)


def _wrapper() -> None:
    def refuse(*_args: Any) -> None:
        raise RuntimeError("a wrapper of another view")

    connection.execute_wrapper(refuse).__enter__()


def _native() -> None:
    connection.ensure_connection()
    connection.connection.cursor().execute("BEGIN")


def _refuse(*_args: Any, **_options: Any) -> None:
    raise RuntimeError("left by another view")


def _on_another_database() -> None:
    """Takes effect when it connects again."""
    connection.close()
    connection.settings_dict["NAME"] = "nowhere.sqlite3" if connection.vendor == "sqlite" else "template1"


def _closed_with_a_wrapper() -> None:
    connection.close()
    connection.execute_wrappers.append(_refuse)


def _closed_in_a_transaction() -> None:
    _atomic()
    connection.close()


def _opened_with_a_wrapper() -> None:
    _closed_with_a_wrapper()
    connection.connect()


def _replaced() -> None:
    """The worker's own connection stays in a transaction, and a reference to it is kept."""
    Execution.objects.create(dispatch="before the transaction")
    _atomic()
    REPLACED.append(connections["default"])
    connections["default"] = connections.create_connection("default")
    connections["default"].settings_dict = {**connection.settings_dict, "NAME": "nowhere"}


def _on_the_driver(**attributes: Any) -> Callable[[], None]:
    def run() -> None:
        connection.ensure_connection()
        for name, value in attributes.items():
            setattr(connection.connection, name, value)

    return run


def _one_level() -> None:
    import psycopg

    _on_the_driver(isolation_level=psycopg.IsolationLevel.SERIALIZABLE)()


def _timer(which: int, number: int) -> Callable[[], None]:
    """Interrupted code continues as long as the handler exists."""

    def run() -> None:
        signal.signal(number, lambda *_: None)
        signal.setitimer(which, 0.01, 0.01)

    return run


REPLACED: list[Any] = []

ANYWHERE: dict[str, Callable[[], object]] = {
    "begin": _begin,
    "begin through the driver": _native,
    "atomic": _atomic,
    "atomic in a rollback": _broken_atomic,
    "savepoint": lambda: (_atomic(), transaction.savepoint()),
    "autocommit": lambda: transaction.set_autocommit(False),
    "on commit": lambda: (_atomic(), transaction.on_commit(lambda: Execution.objects.create(dispatch="late"))),
    "execute wrapper": _wrapper,
    "closed with an execute wrapper": _closed_with_a_wrapper,
    "opened with an execute wrapper": _opened_with_a_wrapper,
    "closed in a transaction": _closed_in_a_transaction,
    "cursor": lambda: setattr(connection, "cursor", _refuse),
    "another database": _on_another_database,
    "settings of the connection": lambda: setattr(connection, "settings_dict", {}),
    "settings of the database": lambda: connections.settings.update(default={}),
    "time zone of the database": lambda: connection.settings_dict.update(TIME_ZONE="Asia/Tokyo"),
    "options of the database": lambda: connection.settings_dict["OPTIONS"].update(nonsense=1),
    "replaced connection": _replaced,
    "something else as connection": lambda: connections.__setitem__("default", object()),
    "deleted connection": lambda: connections.__delitem__("default"),
    "temporary table": _execute("CREATE TEMPORARY TABLE tests_site_leftover (id integer)"),
    "context variable": lambda: TENANT.set("acme"),
    "decimal context": lambda: setattr(decimal.getcontext(), "prec", 3),
    "time zone": lambda: timezone.activate("Asia/Tokyo"),
    "language": lambda: translation.activate("de"),
    "no language": translation.deactivate_all,
    "urlconf": lambda: set_urlconf("tests.acceptance.poison"),
    "script prefix": lambda: set_script_prefix("/elsewhere/"),
    "working directory": lambda: os.chdir(tempfile.gettempdir()),
    "umask": lambda: os.umask(0o777),
    "environment": lambda: os.environ.update(TENANT="acme", TZ="Asia/Tokyo"),
    "less environment": lambda: os.environ.pop("DJANGO_SETTINGS_MODULE"),
    "replaced environment": lambda: setattr(os, "environ", dict(os.environ)),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "signal handler": lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
    "termination": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "alarm": lambda: (signal.signal(signal.SIGALRM, lambda *_: sys.exit(3)), signal.alarm(1)),
    "quick alarm": _timer(signal.ITIMER_REAL, signal.SIGALRM),
    "profiling timer": _timer(signal.ITIMER_PROF, signal.SIGPROF),
    "virtual timer": _timer(signal.ITIMER_VIRTUAL, signal.SIGVTALRM),
    "signal mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM]),
    "blocked alarm": lambda: (
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]),
        signal.raise_signal(signal.SIGALRM),
    ),
    "socket timeout": lambda: socket.setdefaulttimeout(0.001),
    "standard output": lambda: setattr(sys, "stdout", None),
    "logging": lambda: logging.disable(logging.CRITICAL),
}
POSTGRESQL: dict[str, Callable[[], object]] = {
    "search path": _execute("SET search_path TO nowhere"),
    "read only": _execute("SET default_transaction_read_only TO on"),
    "role": _execute("SET ROLE pg_read_all_stats"),
    "session authorization": _execute("SET SESSION AUTHORIZATION pg_read_all_stats"),
    "lock": _execute("SELECT pg_advisory_lock(4711)"),
    "listen": _execute("LISTEN poison"),
    "isolation": _execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    "cursor": _execute("DECLARE poison CURSOR WITH HOLD FOR SELECT 1"),
    "database time zone": _execute("SET TIME ZONE 'Asia/Tokyo'"),
    "statement timeout": _execute("SET statement_timeout TO 1"),
    "own setting": _execute("SET app.tenant TO 'acme'"),
    "failed transaction": lambda: (_execute("BEGIN")(), _swallowed("SELECT 1 / 0")),
    "isolation level": _one_level,
    "transactions": _on_the_driver(read_only=True, deferrable=True),
    "no autocommit": _on_the_driver(autocommit=False),
    "prepared statements": _on_the_driver(prepare_threshold=1),
}
SQLITE: dict[str, Callable[[], object]] = {
    "query only": _execute("PRAGMA query_only = ON"),
    "foreign keys": _execute("PRAGMA foreign_keys = OFF"),
    "attached": _execute("ATTACH ':memory:' AS another"),
    "order": _execute("PRAGMA reverse_unordered_selects = ON"),
    "pages": _execute("PRAGMA max_page_count = 1"),
    "checkpoints": _execute("PRAGMA wal_autocheckpoint = 1"),
    "length of statements": lambda: connection.connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 300),
}
EXITS: dict[str, BaseException] = {
    "exit": SystemExit(0),
    "exit with status": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "generator exit": GeneratorExit(),
    "cancelled": asyncio.CancelledError(),
    "own": type("Stop", (BaseException,), {})("stop"),
    "shutdown": WorkerShutdown(0),
    "terminate": WorkerTerminate(1),
    "stop iteration": StopIteration(),
}


def _swallowed(statement: str) -> None:
    with contextlib.suppress(Error):
        _execute(statement)()


def poisons(vendor: str) -> dict[str, Callable[[], object]]:
    return ANYWHERE | {"postgresql": POSTGRESQL, "sqlite": SQLITE}.get(vendor, {})


@csrf_exempt
def poison(request: HttpRequest, name: str) -> HttpResponse:
    poisons(connection.vendor)[name]()
    if "close" in request.GET:
        connection.close()
    return HttpResponse("swallowed")


@csrf_exempt
async def apoison(request: HttpRequest, name: str) -> HttpResponse:
    """The poisons that need no database."""
    ANYWHERE[name]()
    return HttpResponse("swallowed")


@csrf_exempt
def leave(request: HttpRequest, name: str) -> HttpResponse:
    raise EXITS[name]


@csrf_exempt
async def aleave(request: HttpRequest, name: str) -> HttpResponse:
    raise EXITS[name]


_ON_POSTGRESQL = """SELECT current_setting('search_path'), current_user, session_user,
current_setting('default_transaction_read_only'), current_setting('default_transaction_isolation'),
current_setting('TimeZone'), current_setting('statement_timeout'), coalesce(current_setting('app.tenant', true), ''),
(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
(SELECT count(*) FROM pg_cursors), (SELECT count(*) FROM pg_listening_channels()),
to_regclass('pg_temp.tests_site_leftover') IS NULL"""
_ON_SQLITE = """SELECT (SELECT query_only FROM pragma_query_only), (SELECT foreign_keys FROM pragma_foreign_keys),
(SELECT count(*) FROM pragma_database_list WHERE name <> 'temp'), (SELECT count(*) FROM sqlite_temp_master),
(SELECT * FROM pragma_reverse_unordered_selects), (SELECT * FROM pragma_max_page_count)"""
_OF_DRIVERS = {
    "postgresql": ("autocommit", "isolation_level", "read_only", "deferrable", "prepare_threshold", "row_factory"),
    "sqlite": ("isolation_level", "row_factory"),
}


@csrf_exempt
def probe(request: HttpRequest) -> JsonResponse:
    """Returns the state of the process, the context and the database session."""
    umask = os.umask(0o22)
    os.umask(umask)
    in_transaction, atomic = _in_transaction(), connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute(_ON_POSTGRESQL if connection.vendor == "postgresql" else _ON_SQLITE)
        session = list(cursor.fetchone())
    Execution.objects.create(dispatch=str(request.broker.id))
    return JsonResponse(
        {
            "pid": os.getpid(),
            "session": [str(value) for value in session],
            "driver": {
                name: str(getattr(connection.connection, name)) for name in _OF_DRIVERS.get(connection.vendor, ())
            },
            "database": {name: str(value) for name, value in connection.settings_dict.items()},
            "in transaction": in_transaction,
            "atomic": atomic,
            "autocommit": connection.get_autocommit(),
            "wrappers": len(connection.execute_wrappers),
            "tenant": TENANT.get(),
            "precision": decimal.getcontext().prec,
            "time zone": timezone.get_current_timezone_name(),
            "language": translation.get_language(),
            "urlconf": str(get_urlconf()),
            "script prefix": get_script_prefix(),
            "working directory": str(Path.cwd()),
            "umask": umask,
            "environment": [type(os.environ).__name__, *sorted(os.environ.items())],
            "locale": locale.setlocale(locale.LC_ALL),
            "signals": {str(number): str(signal.getsignal(number)) for number in (10, 12, 14, 15)},
            "signal mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "timers": [
                signal.getitimer(which)[0] for which in (signal.ITIMER_REAL, signal.ITIMER_PROF, signal.ITIMER_VIRTUAL)
            ],
            "socket timeout": socket.getdefaulttimeout(),
            "standard output": sys.stdout is None,
            "logging": logging.root.manager.disable,
        }
    )


def _in_transaction() -> bool:
    connection.ensure_connection()
    raw = connection.connection
    return bool(raw.info.transaction_status if connection.vendor == "postgresql" else raw.in_transaction)
