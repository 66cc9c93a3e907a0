"""kombu's RabbitMQ transport, which waits for no answer over a connection that RabbitMQ has blocked.

While an alarm for memory or disk lasts, RabbitMQ reads nothing more from a connection that publishes, so it answers
nothing over it either. It says so first, and goes on with connections that only consume.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.transport import pyamqp


class BlockedError(RecoverableConnectionError):
    """RabbitMQ takes nothing over this connection until its alarm is over."""


class Connection(pyamqp.Connection):
    is_blocked = False

    def _on_blocked(self) -> Any:
        self.is_blocked = True
        return super()._on_blocked()  # type: ignore[misc] # not in its stubs

    def _on_unblocked(self) -> Any:
        self.is_blocked = False
        return super()._on_unblocked()  # type: ignore[misc] # not in its stubs

    def drain_events(self, timeout: float | None = None) -> None:
        """Read what has come. Raises BlockedError instead of waiting for more."""
        self._refuse_to_wait(timeout)
        super().drain_events(timeout)
        self._refuse_to_wait(timeout)

    def _refuse_to_wait(self, timeout: float | None) -> None:
        if self.is_blocked and timeout != 0:
            raise BlockedError("RabbitMQ has blocked the connection: an alarm for memory or disk is on")

    def close(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_blocked:
            return self.collect()
        return super().close(*args, **kwargs)


class Transport(pyamqp.Transport):
    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    Connection = Connection
