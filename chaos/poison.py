"""What views do to the process that runs them, without undoing it."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from billiard.exceptions import SoftTimeLimitExceeded
from django.db import connection, transaction
from django.urls import set_script_prefix, set_urlconf
from django.utils import timezone, translation

from chaos.leftovers import TENANT
from tests.site.models import Execution

if TYPE_CHECKING:
    from collections.abc import Callable

    Poison = Callable[[], object]

LEFT_OPEN = "in a transaction that was left open"
"""The worker in rows that must never be committed."""


def execute(*statements: str) -> Poison:
    def act() -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return act


def _with_a_row(leave_open: Poison) -> Poison:
    def act() -> None:
        leave_open()
        Execution.objects.create(worker=LEFT_OPEN)

    return act


def activate() -> None:
    TENANT.set("acme")
    timezone.activate("Asia/Tokyo")
    translation.activate("de")
    decimal.getcontext().prec = 3


def prefix() -> None:
    set_script_prefix("/elsewhere/")
    set_urlconf("tests.site.urls")


def signals() -> None:
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def alarm() -> None:
    """Fires while another view runs, unless it is stopped."""

    def goes_off(_number: int, _frame: object) -> None:
        raise RuntimeError("the alarm of an earlier view")

    signal.signal(signal.SIGALRM, goes_off)
    signal.setitimer(signal.ITIMER_REAL, 0.5)


def profiling() -> None:
    """Ends the process unless its handler stays installed."""
    signal.signal(signal.SIGPROF, lambda *_: None)
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)


def closed_wrapper() -> None:
    connection.close()
    connection.execute_wrappers.append(count_statement)


def close() -> None:
    connection.close()


def close_driver() -> None:
    """Django does not notice it."""
    connection.connection.close()


def swallow() -> None:
    """Reaches the soft time limit, and does not end at once."""
    with contextlib.suppress(SoftTimeLimitExceeded):
        time.sleep(5)
    time.sleep(0.3)


def count_statement(execute: Callable[..., object], *arguments: object) -> object:
    return execute(*arguments)


class OtherBaseException(BaseException):
    """Neither an Exception nor an exception that Python defines."""


def raising(error: BaseException) -> Poison:
    def act() -> None:
        raise error

    return act


RAISING: dict[str, Poison] = {
    "exit": lambda: sys.exit(3),
    "exit-0": sys.exit,
    "interrupt": raising(KeyboardInterrupt()),
    "generator-exit": raising(GeneratorExit()),
    "cancelled": raising(asyncio.CancelledError()),
    "base-exception": raising(OtherBaseException("poison")),
    "failed-statement": execute("BEGIN", "SELECT * FROM no_such_table"),
}
"""These raise in the first attempt only, so that the dispatch can succeed."""

TIME_LIMITED: dict[str, Poison] = {"swallow": swallow}
"""For a queue with a short time limit."""

OF_CONTEXT: dict[str, Poison] = {"activate": activate, "prefix": prefix}

OF_PROCESS: dict[str, Poison] = {
    "directory": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0),
    "signals": signals,
    "alarm": alarm,
    "profiling": profiling,
    "mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]),
}

"""State that all threads of a process share: if views run in threads, others legitimately see it."""

OF_CONNECTION: dict[str, Poison] = {
    "begin": _with_a_row(execute("BEGIN")),
    "atomic": _with_a_row(lambda: transaction.atomic().__enter__()),
    "autocommit": _with_a_row(lambda: transaction.set_autocommit(False)),
    "wrapper": lambda: connection.execute_wrappers.append(count_statement),
    "closed-wrapper": closed_wrapper,
    "close": close,
    "close-driver": close_driver,
    "temporary-table": execute("CREATE TEMPORARY TABLE chaos_left (x integer)"),
}

ONLY: dict[str, dict[str, Poison]] = {
    "postgresql": {
        "search-path": execute("SET search_path TO pg_temp"),
        "read-only": execute("SET default_transaction_read_only TO on"),
        "read-only-session": execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
        "role": execute("SET ROLE chaos_guest"),
        "time-zone": execute("SET TIME ZONE 'Asia/Tokyo'"),
        "timeout": execute("SET statement_timeout TO '5s'"),
        "tenant": execute("SELECT set_config('chaos.tenant', 'acme', false)"),
        "advisory-lock": execute("SELECT pg_try_advisory_lock(pg_backend_pid())"),
        "listen": execute("LISTEN chaos"),
        "cursor": execute("BEGIN", "DECLARE chaos CURSOR WITH HOLD FOR SELECT 1", "COMMIT"),
    },
    "sqlite": {
        "query-only": execute("PRAGMA query_only = ON"),
        "foreign-keys": execute("PRAGMA foreign_keys = OFF"),
        "attach": execute("ATTACH DATABASE ':memory:' AS chaos_left"),
    },
}

POISONS: dict[str, Poison] = {
    **RAISING,
    **TIME_LIMITED,
    **OF_CONTEXT,
    **OF_PROCESS,
    **OF_CONNECTION,
    **ONLY["postgresql"],
    **ONLY["sqlite"],
}


def names(vendor: str, pool: str = "prefork") -> list[str]:
    """Returns the poisons for this database and this pool."""
    of_process = OF_PROCESS if pool == "prefork" else {}
    return sorted({**RAISING, **TIME_LIMITED, **OF_CONTEXT, **of_process, **OF_CONNECTION, **ONLY[vendor]})


def act(name: str, attempt: int) -> None:
    """Run the poison. Those that raise do so in the first attempt only."""
    if name not in RAISING or attempt == 1:
        POISONS[name]()
