"""The routing table of this process: compiled once, and again when rows change.

A request never waits for it and never asks the database. A thread of its own looks every half second at a number that
triggers raise (see `triggers`), and at once after a change by this very process. Django's test environment has no such
thread: there a change is seen by the next request, and undone when its transaction is rolled back.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from django.db import connections, router, transaction
from django.test import utils as test_utils

from broker_core.errors import ConfigurationError
from broker_core.redaction import redacted
from broker_core.routing import RoutingTable
from broker_django import triggers
from broker_django.conf import conf
from broker_django.database import alias
from broker_django.forking import undisturbed
from broker_django.models import Destination, Router, RoutingVersion
from broker_django.routers import compiled

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("broker_django.table")

LOOK_EVERY = 0.5
"""Seconds between looks at the number."""

ATTEMPTS = 3

NONE = RoutingTable(())


class Tables:
    """The current table, and what keeps it current. One a process."""

    def __init__(self) -> None:
        self._table: RoutingTable | None = NONE if _testing() else None
        self._version: int | None = None
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
            self._changed.wait(LOOK_EVERY)
            self._changed.clear()
            try:
                with undisturbed:
                    if version() != self._version:
                        self._reload()
                looks = True
            except Exception as error:  # noqa: BLE001 - whatever it is, the table has to be looked after
                if looks:
                    logger.warning("The routing table stays as it is until it can be read: %s", redacted(error))
                looks = False
                connections.close_all()  # those of this thread

    def _reload(self) -> None:
        """Load the rows of one moment: again where some changed meanwhile, which raises the number.

        Where they never rest the last table counts until the next look.
        """
        for _attempt in range(ATTEMPTS):
            before = version()
            table = load()
            if version() == before:
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
    rows = list(Router._base_manager.using(alias()).filter(is_active=True))
    for destination in Destination._base_manager.using(alias()).filter(is_active=True, router__is_active=True):
        destinations.setdefault(destination.router_id, []).append(destination)
    return RoutingTable(_compiled(rows, destinations)) or NONE


def _compiled(rows: Iterable[Router], destinations: dict[Any, list[Destination]]) -> Iterable[Any]:
    for row in rows:
        try:
            yield compiled(row, destinations.get(row.pk, ()))
        except ConfigurationError as error:
            logger.error("Router %s is left out: %s", row.code, error, extra={"router": row.code})


def version() -> int:
    """The number that every change raises; 0 before the first."""
    return RoutingVersion._base_manager.using(alias()).values_list("number", flat=True).filter(pk=1).first() or 0


tables = Tables()
os.register_at_fork(after_in_child=tables.forget)


def keep_watch(**_: Any) -> None:
    """A receiver of the signals of their rows."""
    tables.changed()


def after_migrate(using: str, plan: Any = None, **_: Any) -> None:
    """A receiver of `post_migrate`, which `flush` sends too, without a plan."""
    if plan is None:
        tables.emptied()
        return
    if all(router.allow_migrate_model(using, model) for model in (Router, Destination, RoutingVersion)):
        rows = [Router._meta.db_table, Destination._meta.db_table]
        triggers.install(using, rows, RoutingVersion._meta.db_table)
        tables.changed()
