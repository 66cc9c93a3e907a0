"""The Redis transport of a worker: it knows the true queue of a message, and reads only queues with a process free."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kombu.transport import redis
from redis.exceptions import ResponseError

from broker_django import transport
from broker_django.celery_app import TASK
from workers.in_hand import InHand
from workers.pools import pools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger("workers.transport")


class _TrueQueue:
    """Gives each dispatch the queue that it was read from, whatever the message itself says.

    On Redis the routing key travels inside the message: one that was moved to another list would keep the old one.
    The project's own tasks keep theirs: Celery retries a task with the routing key that it came with.
    """

    def basic_consume(self, queue: str, *, callback: Callable[[Any], Any], **options: Any) -> Any:
        def deliver(message: Any) -> Any:
            if message.headers.get("task", TASK) == TASK:  # version 1 of Celery's protocol has the name in the body
                message.delivery_info["routing_key"] = queue
            return callback(message)

        return super().basic_consume(queue=queue, callback=deliver, **options)  # type: ignore[misc]


class OpenQueues:
    """The order of queues that the project chose, without those that have no process free."""

    def __init__(self, order: Any, has_room: Callable[[str], bool]) -> None:
        self._order = order
        self._has_room = has_room

    def update(self, queues: Iterable[str]) -> None:
        self._order.update(queues)

    def consume(self, n: int) -> list[str]:
        return [queue for queue in self._order.consume(n) if self._has_room(queue)]

    def rotate(self, last_used: str) -> None:
        self._order.rotate(last_used)


class _Slots(InHand):
    """Reads only queues that may have another message in hand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waits_on: frozenset[str] = frozenset()
        self._reader: tuple[Any, int | None] = (None, None)
        self._queue_cycle = OpenQueues(self._queue_cycle, self._has_room)  # type: ignore[has-type]

    def _has_room(self, queue: str) -> bool:
        return not pools.limited or pools.has_room(queue, self.in_hand())

    def _brpop_start(self, timeout: float | None = None) -> Any:
        if pools.limited:
            self._waits_on = self._open()
            self._note_reader(self.client.connection)  # type: ignore[attr-defined]
        return super()._brpop_start(timeout)  # type: ignore[misc]

    def _open(self) -> frozenset[str]:
        return frozenset(queue for queue in self.active_queues if self._has_room(queue))  # type: ignore[attr-defined]

    def _note_reader(self, connection: Any) -> None:
        """Ask Redis what it calls the connection that is about to wait, once for each socket."""
        if self._reader[0] is connection._sock:
            return
        connection.send_command("CLIENT", "ID")
        try:
            self._reader = connection._sock, connection.read_response()
        except ResponseError as error:
            logger.warning("Redis tells no CLIENT ID, so free processes may wait up to a second: %s", error)
            self._reader = connection._sock, None

    def wake(self) -> None:
        """Read anew where queues have room that are not being waited on: a task ended, or weights have changed."""
        if not pools.limited or not self._in_poll or self._reader[1] is None:  # type: ignore[attr-defined]
            return
        if not self._open() <= self._waits_on:
            self._waits_on |= self._open()
            with self.conn_or_acquire() as client:  # type: ignore[attr-defined]
                client.client_unblock(self._reader[1])


class Poller(redis.MultiChannelPoller):
    _channels: set[Any]

    def on_poll_start(self) -> None:
        for channel in self._channels:
            channel.wake()
        super().on_poll_start()


class Channel(_TrueQueue, _Slots, transport.Channel):  # type: ignore[misc]
    pass


class SentinelChannel(_TrueQueue, _Slots, transport.SentinelChannel):  # type: ignore[misc]
    pass


class _OwnPoller:
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()


class Transport(_OwnPoller, transport.Transport):
    Channel = Channel


class SentinelTransport(_OwnPoller, transport.SentinelTransport):
    Channel = SentinelChannel
