"""kombu's RabbitMQ transport, changed so that it does not wait for responses on a blocked connection.

During a memory or disk alarm, RabbitMQ does not read from connections that publish, so it does not respond on them
either. It announces this first, and continues to serve connections that only consume.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.transport import pyamqp


class BlockedError(RecoverableConnectionError):
    """RabbitMQ accepts nothing on this connection until its alarm is over."""


class Connection(pyamqp.Connection):
    is_blocked = False

    def _on_blocked(self) -> Any:
        self.is_blocked = True
        return super()._on_blocked()  # type: ignore[misc] # not in its stubs

    def _on_unblocked(self) -> Any:
        self.is_blocked = False
        return super()._on_unblocked()  # type: ignore[misc] # not in its stubs

    def drain_events(self, timeout: float | None = None) -> None:
        """Read what has arrived. Raises BlockedError instead of waiting for more."""
        self._refuse_to_wait(timeout)
        super().drain_events(timeout)
        self._refuse_to_wait(timeout)

    def _refuse_to_wait(self, timeout: float | None) -> None:
        if self.is_blocked and timeout != 0:
            raise BlockedError("RabbitMQ has blocked the connection because of a memory or disk alarm")

    def close(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_blocked:
            return self.collect()
        return super().close(*args, **kwargs)


class Transport(pyamqp.Transport):
    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    Connection = Connection
