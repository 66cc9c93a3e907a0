"""kombu's Redis transport with one client per channel: kombu creates a new client for every message it sends."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kombu.transport import redis
from redis.exceptions import ConnectionError as RedisConnectionError


class OneClient:
    """Keeps the client of a channel as long as its connection pool exists."""

    _own_client: Any = None

    def conn_or_acquire(self, client: Any = None) -> AbstractContextManager[Any]:
        if client:
            return nullcontext(client)
        if getattr(self.connection, "client", None) is None:  # type: ignore[attr-defined]
            raise RedisConnectionError("the channel is closed")  # kombu's own error here cannot be recovered from
        if self._own_client is None or self._own_client.connection_pool is not self.pool:  # type: ignore[attr-defined]
            self._own_client = self._create_client()  # type: ignore[attr-defined]
        return nullcontext(self._own_client)


class Channel(OneClient, redis.Channel):  # type: ignore[misc]
    pass


class SentinelChannel(OneClient, redis.SentinelChannel):  # type: ignore[misc]
    pass


class Transport(redis.Transport):
    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    Channel = SentinelChannel
