"""Cache clients that outlive a replay. Otherwise Django makes new clients, with new connections, for each context."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from django.core.cache import caches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.core.cache.backends.base import BaseCache

logger = logging.getLogger("workers.replaying.caches")

CONFIGURED = ("default_timeout", "key_func", "key_prefix", "version")
"""Attributes of a client that the settings determine."""


class CacheClients:
    """One client per cache for each replay that runs at a time, because not every client is thread-safe."""

    def __init__(self) -> None:
        self._idle: list[dict[str, BaseCache]] = []

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Use the clients in the current context, which has none, until the block ends."""
        try:
            clients = self._idle.pop()
        except IndexError:
            clients = _made()
        as_configured = {alias: _configuration(client) for alias, client in clients.items()}
        for alias, client in clients.items():
            caches[alias] = client
        try:
            yield
        finally:
            for alias, client in clients.items():
                vars(client).update(as_configured[alias])
            self._idle.append(clients)


def _configuration(client: BaseCache) -> dict[str, object]:
    return {name: vars(client)[name] for name in CONFIGURED if name in vars(client)}


def _made() -> dict[str, BaseCache]:
    """Returns all clients that can be created. They connect on first use."""
    clients = {}
    for alias in caches:
        try:
            clients[alias] = caches.create_connection(alias)
        except Exception as error:  # noqa: BLE001 - a view that uses the cache gets the error
            logger.debug("The cache %r cannot be used: %s", alias, type(error).__name__)
    return clients
