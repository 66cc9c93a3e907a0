"""The routing table of this process: compiled once, and again when rows change.

A request never waits for it and never asks the database. A thread of its own looks every half second at a number that
triggers raise (see `triggers`), and at once after a change by this very process. If the database has no such triggers,
the thread reads the rows every two seconds. Django's test environment has no such thread: there a change is seen by the
next request, and undone when its transaction is rolled back.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from django.db import Error as DatabaseFailure
from django.db import connections, router, transaction
from django.test import utils as test_utils

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

LOOK_EVERY = 0.5
"""Seconds between looks at the number."""
READ_EVERY = 2.0
"""Seconds between looks at the rows themselves, if no triggers raise the number."""

ATTEMPTS = 3

NONE = RoutingTable(())


class Tables:
    """The current table, and what keeps it current. One a process."""

    def __init__(self) -> None:
        self._table: RoutingTable | None = NONE if _testing() else None
        self._version: tuple[int, str] | None = None
        self._undo: list[tuple[_Mark, RoutingTable | None]] = []
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._watcher: threading.Thread | None = None

    def current(self) -> RoutingTable:
        """The table. The first call in a process loads it."""
        if self._watcher is None and conf.ROUTING_ENABLED:
            self._look()
        table = self._table
        return NONE if table is None else table

    @property
    def at_hand(self) -> bool:
        """Whether `current` would not ask the database."""
        return self._watcher is not None or not conf.ROUTING_ENABLED or (self._table is not None and not self._undo)

    def changed(self) -> None:
        """Rows were changed by this process."""
        if self._watcher is not None:
            transaction.on_commit(self._changed.set, using=alias())
            return
        if connections[alias()].in_atomic_block:
            mark = _Mark()
            transaction.on_commit(mark.note, using=alias())
            self._undo.append((mark, self._table))
        self._table = None

    def look(self) -> None:
        """Have the thread look at once: another process says that rows were changed."""
        self._changed.set()

    def emptied(self) -> None:
        """Nothing is left of the rows: the database was flushed."""
        if self._watcher is None:
            self._table, self._undo = NONE, []

    def forget(self) -> None:
        """Start afresh, in a process that was forked."""
        self.__init__()  # type: ignore[misc]

    def _look(self) -> None:
        with self._lock:
            if self._watcher is not None:
                return
            self._undo_what_was_rolled_back()
            if self._table is None:
                try:
                    self._reload()
                except Exception as error:  # noqa: BLE001 - also that a test forbids the database
                    logger.warning("The routing table cannot be read: %s", redacted(error))
            if not _testing():
                self._watcher = threading.Thread(target=self._keep_current, name="request-broker-routing", daemon=True)
                self._watcher.start()

    def _undo_what_was_rolled_back(self) -> None:
        if not self._undo:
            return
        pending = {entry[1] for entry in connections[alias()].run_on_commit}
        while self._undo and self._undo[-1][0].note not in pending:
            mark, before = self._undo.pop()
            self._table = None if mark.committed else before

    def _keep_current(self) -> None:
        looks = True
        while True:
            self._changed.wait(self._pause)
            self._changed.clear()
            try:
                with fork_lock:
                    if fingerprint() != self._version:
                        self._reload()
                looks = True
            except Exception as error:  # noqa: BLE001 - whatever it is, the table has to be looked after
                if looks:
                    logger.warning("The routing table stays as it is until it can be read: %s", redacted(error))
                looks = False
                connections.close_all()  # those of this thread

    @property
    def _pause(self) -> float:
        _number, digest = self._version or (0, "")
        return READ_EVERY if digest else LOOK_EVERY

    def _reload(self) -> None:
        """Load the rows of one moment: again where some changed meanwhile, which raises the number.

        Where they never rest the last table counts until the next look.
        """
        for _attempt in range(ATTEMPTS):
            before = fingerprint()
            table = load()
            if fingerprint() == before:
                break
        self._table, self._version = table, before


class _Mark:
    """Tells whether the transaction in which it was made was committed."""

    def __init__(self) -> None:
        self.committed = False

    def note(self) -> None:
        self.committed = True


def _testing() -> bool:
    """Whether this is Django's test environment, which rolls back what it writes."""
    return hasattr(test_utils._TestState, "saved_data")


def load() -> RoutingTable:
    """The table as the rows are now. A row that can decide nothing is left out and logged."""
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
    """The number that every change raises; 0 before the first."""
    return _noted()[0]


def fingerprint() -> tuple[int, str]:
    """What differs after every change: the number, and a digest of the rows if no triggers raise the number."""
    number, is_kept = _noted()
    return number, "" if is_kept else _digest()


def is_kept_by_triggers() -> bool:
    return _noted()[1]


def _noted() -> tuple[int, bool]:
    rows = RoutingVersion._base_manager.using(alias()).filter(pk=1)
    return rows.values_list("number", "kept_by_triggers").first() or (0, False)


def _digest() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for rows in _active():
        for row in rows.order_by("pk").values_list():
            digest.update(repr(row).encode())
    return digest.hexdigest()


tables = Tables()
os.register_at_fork(after_in_child=tables.forget)


def keep_watch(**_: Any) -> None:
    """A receiver of the signals of their rows."""
    tables.changed()


def after_migrate(using: str, plan: Any = None, stdout: Any = None, **_: Any) -> None:
    """A receiver of `post_migrate`, which `flush` sends too, without a plan."""
    if plan is None:
        tables.emptied()
        return
    if all(router.allow_migrate_model(using, model) for model in (Router, Destination, RoutingVersion)):
        kept = _install_triggers(using, stdout)
        RoutingVersion._base_manager.using(using).update_or_create(pk=1, defaults={"kept_by_triggers": kept})
        tables.changed()


def _install_triggers(using: str, stdout: Any) -> bool:
    """Whether the database has them then. If it refuses them, that is said, and `migrate` goes on."""
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
    "Warning: the database refuses the triggers that tell of changed routers ({error}). Processes will read the rows "
    "every {seconds:g} s instead. If you want the triggers: let this user create them (MySQL and MariaDB with a binary "
    "log need SET GLOBAL log_bin_trust_function_creators = 1, or a user with SUPER), and run migrate again."
)
