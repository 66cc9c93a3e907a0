"""The settings of databases, which all connections of a process share, as the worker started with them."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from django.db import connections

logger = logging.getLogger("workers.replaying.connections")


OF_BACKENDS = frozenset({"SCHEMA"})
"""What a backend itself writes into them: that of django-tenants, whose schema a connection was told last."""


class DatabaseSettings:
    """What a view writes into them would be there for good, and in each thread."""

    def __init__(self) -> None:
        self._all: dict[str, Any] | None = None
        self._kept: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def keep(self) -> None:
        """Keep them as they are now."""
        self._all = connections.settings
        self._kept = {alias: (database, _copy(database)) for alias, database in self._all.items()}

    def are_kept(self, alias: str) -> bool:
        """Whether a database has the settings that it had."""
        if alias not in self._kept:
            return True
        database, before = self._kept[alias]
        return connections.settings.get(alias) is database and _own(database) == _own(before)

    def put_back(self) -> set[str]:
        """Put back what is different. Returns the aliases of these databases. Databases that were added stay."""
        if self._all is not None and connections.settings is not self._all:
            connections.settings = self._all
        changed = {alias for alias in self._kept if not self.are_kept(alias)}
        for alias in changed:
            logger.warning("The settings of the database %r were changed, they are put back", alias)
            self._put_back(alias)
        return changed

    def _put_back(self, alias: str) -> None:
        database, before = self._kept[alias]
        database.update(_copy(before))
        for name in database.keys() - before.keys() - OF_BACKENDS:
            del database[name]
        connections.settings[alias] = database
        _close_pool(alias)


def _close_pool(alias: str) -> None:
    """A pool has connections that were made with other settings."""
    close: Any = getattr(connections[alias], "close_pool", None)
    if close is not None:
        with contextlib.suppress(Exception):  # a pool may refuse the settings of the project, too
            close()


def _own(database: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in database.items() if name not in OF_BACKENDS}


def _copy(value: Any) -> Any:
    """Of dicts and lists only: not everything that options may have can be copied."""
    if isinstance(value, dict):
        return {name: _copy(member) for name, member in value.items()}
    return [_copy(member) for member in value] if isinstance(value, list) else value


database_settings = DatabaseSettings()
