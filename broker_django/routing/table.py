"""The routing table of this process. It is compiled once, and again when rows change.

Requests neither wait for it nor query the database. A thread polls a number that triggers increase (see `triggers`)
every half second, and at once after this process itself changed a row. If the database has no triggers, the thread
reads the rows every two seconds. Django's test environment has no such thread: the next request sees a change, and a
rollback of its transaction undoes it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from django.db import Error as DatabaseFailure
from django.db import connections, router, transaction
from django.test import utils as test_utils  # knows whether tests run

from broker_core.errors import ConfigurationError
from broker_core.redaction import printable, redacted
from broker_core.routing import RoutingTable
from broker_django.conf import conf
from broker_django.messaging.forking import fork_lock
from broker_django.models import Destination, Router, RoutingVersion
from broker_django.models.database import alias
from broker_django.routing import triggers
from broker_django.routing.rows import compiled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.models import QuerySet

logger = logging.getLogger("broker_django.routing.table")

POLL_EVERY = 0.5
"""Seconds between polls of the number."""
READ_EVERY = 2.0
"""Seconds between reads of the rows, if no triggers increase the number."""

ATTEMPTS = 3

NONE = RoutingTable(())


class Tables:
    """The current table of this process, and the thread that keeps it current."""

    def __init__(self) -> None:
        self._table: RoutingTable | None = NONE if _testing() else None
        self._version: tuple[int, str] | None = None
        self._undo: list[tuple[_CommitMark, RoutingTable | None]] = []
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._watcher: threading.Thread | None = None

    def current(self) -> RoutingTable:
        """Returns the table. The first call in a process loads it."""
        if self._watcher is None and conf.ROUTING_ENABLED:
            self._load_and_watch()
        table = self._table
        return NONE if table is None else table

    @property
    def at_hand(self) -> bool:
        """Whether `current` returns without a query."""
        return self._watcher is not None or not conf.ROUTING_ENABLED or (self._table is not None and not self._undo)

    def changed(self) -> None:
        """Reload the table, because this process changed rows."""
        if self._watcher is not None:
            transaction.on_commit(self._changed.set, using=alias())
            return
        if connections[alias()].in_atomic_block:
            mark = _CommitMark()
            transaction.on_commit(mark.commit, using=alias())
            self._undo.append((mark, self._table))
        self._table = None

    def poll_now(self) -> None:
        """Make the thread poll at once, because another process changed rows."""
        self._changed.set()

    def empty(self) -> None:
        """Empty the table, because the database was flushed."""
        if self._watcher is None:
            self._table, self._undo = NONE, []

    def reset(self) -> None:
        """Start again in a forked process."""
        self.__init__()  # type: ignore[misc]

    def _load_and_watch(self) -> None:
        with self._lock:
            if self._watcher is not None:
                return
            self._undo_what_was_rolled_back()
            if self._table is None:
                try:
                    self._reload()
                except Exception as error:  # noqa: BLE001 - a test may forbid the database
                    logger.warning("The routing table cannot be read: %s", redacted(error))
            if not _testing():
                self._watcher = threading.Thread(target=self._keep_current, name="request-broker-routing", daemon=True)
                self._watcher.start()

    def _undo_what_was_rolled_back(self) -> None:
        if not self._undo:
            return
        pending = {entry[1] for entry in connections[alias()].run_on_commit}
        while self._undo and self._undo[-1][0].commit not in pending:
            mark, before = self._undo.pop()
            self._table = None if mark.committed else before

    def _keep_current(self) -> None:
        readable = True
        while True:
            self._changed.wait(self._pause)
            self._changed.clear()
            try:
                with fork_lock:
                    if fingerprint() != self._version:
                        self._reload()
                readable = True
            except Exception as error:  # noqa: BLE001 - the thread must survive any error
                if readable:
                    logger.warning("The routing table cannot be read and stays as it is: %s", redacted(error))
                readable = False
                connections.close_all()  # this thread's own

    @property
    def _pause(self) -> float:
        _number, digest = self._version or (0, "")
        return READ_EVERY if digest else POLL_EVERY

    def _reload(self) -> None:
        """Load rows of one point in time: load again if the number changed meanwhile.

        If rows keep changing, the last table is used until the next poll.
        """
        for _attempt in range(ATTEMPTS):
            before = fingerprint()
            table = load()
            if fingerprint() == before:
                break
        self._table, self._version = table, before


class _CommitMark:
    """Records whether the transaction that it was made in was committed."""

    def __init__(self) -> None:
        self.committed = False

    def commit(self) -> None:
        self.committed = True


def _testing() -> bool:
    """Whether Django's test environment is set up, which rolls back what tests write."""
    return hasattr(test_utils._TestState, "saved_data")


def load() -> RoutingTable:
    """Returns the table for the current rows. Rows with errors are left out and logged."""
    destinations: dict[Any, list[Destination]] = {}
    routers, targets = _active()
    rows = list(routers)
    for destination in targets:
        destinations.setdefault(destination.router_id, []).append(destination)
    return RoutingTable(_compiled(rows, destinations)) or NONE


def _compiled(rows: Iterable[Router], destinations: dict[Any, list[Destination]]) -> Iterable[Any]:
    for row in rows:
        try:
            yield compiled(row, destinations.get(row.pk, ()))
        except ConfigurationError as error:
            logger.error("Router %s is left out: %s", printable(row.code), redacted(error), extra={"router": row.code})


def _active() -> tuple[QuerySet[Router], QuerySet[Destination]]:
    return (
        Router._base_manager.using(alias()).filter(is_active=True),
        Destination._base_manager.using(alias()).filter(is_active=True, router__is_active=True),
    )


def version() -> int:
    """Returns the number that every change increases; 0 before the first change."""
    return _version_row()[0]


def fingerprint() -> tuple[int, str]:
    """Returns a value that differs after every change: the number, and a digest of the rows if no triggers exist."""
    number, is_kept = _version_row()
    return number, "" if is_kept else _digest()


def is_kept_by_triggers() -> bool:
    return _version_row()[1]


def _version_row() -> tuple[int, bool]:
    rows = RoutingVersion._base_manager.using(alias()).filter(pk=1)
    return rows.values_list("number", "kept_by_triggers").first() or (0, False)


def _digest() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for rows in _active():
        for row in rows.order_by("pk").values_list():
            digest.update(repr(row).encode())
    return digest.hexdigest()


tables = Tables()
os.register_at_fork(after_in_child=tables.reset)


def rows_saved(**_: Any) -> None:
    """Receiver of the signals for saved and deleted rows."""
    tables.changed()


def after_migrate(using: str, plan: Any = None, stdout: Any = None, **_: Any) -> None:
    """Receiver of `post_migrate`, which `flush` also sends, without a plan."""
    if plan is None:
        tables.empty()
        return
    if all(router.allow_migrate_model(using, model) for model in (Router, Destination, RoutingVersion)):
        kept = _install_triggers(using, stdout)
        RoutingVersion._base_manager.using(using).update_or_create(pk=1, defaults={"kept_by_triggers": kept})
        tables.changed()


def _install_triggers(using: str, stdout: Any) -> bool:
    """Returns whether the database has triggers. If it refuses them, warn and let `migrate` continue."""
    rows = [Router._meta.db_table, Destination._meta.db_table]
    try:
        return triggers.install(using, rows, RoutingVersion._meta.db_table)
    except DatabaseFailure as error:
        warning = REFUSED.format(error=redacted(error), seconds=READ_EVERY)
    if stdout is None:
        logger.warning(warning)
    else:
        stdout.write(warning)
    return False


REFUSED = (
    "Warning: the database refuses the triggers that detect changed routers ({error}). Processes will read the rows "
    "every {seconds:g} s instead. If you want the triggers: let this user create them (MySQL and MariaDB with a binary "
    "log need SET GLOBAL log_bin_trust_function_creators = 1, or a user with SUPER), and run migrate again."
)
