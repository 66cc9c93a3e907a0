"""Restore the database settings, which all connections of a process share, to the worker's original ones."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from django.db import connections

logger = logging.getLogger("workers.databases.database_settings")


OF_BACKENDS = frozenset({"SCHEMA"})
"""Settings that a backend itself writes: django-tenants stores the last schema of a connection."""


class DatabaseSettings:
    """A view's changes would otherwise be permanent, and affect each thread."""

    def __init__(self) -> None:
        self._all: dict[str, Any] | None = None
        self._kept: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def keep(self) -> None:
        """Record the current settings."""
        self._all = connections.settings
        self._kept = {alias: (database, _copy(database)) for alias, database in self._all.items()}

    def are_kept(self, alias: str) -> bool:
        """Whether a database has its original settings."""
        if alias not in self._kept:
            return True
        database, before = self._kept[alias]
        return connections.settings.get(alias) is database and _own(database) == _own(before)

    def restore(self) -> set[str]:
        """Restore changed settings. Returns the aliases of these databases. Added databases stay."""
        if self._all is not None and connections.settings is not self._all:
            connections.settings = self._all
        changed = {alias for alias in self._kept if not self.are_kept(alias)}
        for alias in changed:
            logger.warning("The settings of the database %r were changed and are restored", alias)
            self._restore(alias)
        return changed

    def _restore(self, alias: str) -> None:
        database, before = self._kept[alias]
        database.update(_copy(before))
        for name in database.keys() - before.keys() - OF_BACKENDS:
            del database[name]
        connections.settings[alias] = database
        _close_pool(alias)


def _close_pool(alias: str) -> None:
    """A pool contains connections that were made with other settings."""
    close: Any = getattr(connections[alias], "close_pool", None)
    if close is not None:
        with contextlib.suppress(Exception):  # a pool may refuse the project's own settings
            close()


def _own(database: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in database.items() if name not in OF_BACKENDS}


def _copy(value: Any) -> Any:
    """Copies only dicts and lists, because not every value in OPTIONS can be copied."""
    if isinstance(value, dict):
        return {name: _copy(member) for name, member in value.items()}
    return [_copy(member) for member in value] if isinstance(value, list) else value


database_settings = DatabaseSettings()
