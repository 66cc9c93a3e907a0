"""A worker's Redis transport: it knows a message's real queue, and reads only queues with a free process."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.transport import redis, virtual
from redis.exceptions import ResponseError

from broker_core.redaction import redacted
from broker_django.messaging import redis as publisher
from broker_django.messaging.celery_app import TASK, get_app
from workers.consuming.deliveries import Marked, running
from workers.consuming.redis_memory import is_full
from workers.consuming.slots import pools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

logger = logging.getLogger("workers.consuming.redis")


class _SetsQueue:
    """Sets each dispatch's queue to the one that it was read from, not to the one that the message names.

    On Redis the routing key travels inside the message, so a message moved to another list keeps the old one. The
    project's own tasks keep theirs, because Celery retries a task with its original routing key.
    """

    def basic_consume(self, queue: str, *, callback: Callable[[Any], Any], **options: Any) -> Any:
        def deliver(message: Any) -> Any:
            if message.headers.get("task", TASK) == TASK:  # version 1 of Celery's protocol puts the name in the body
                message.delivery_info["routing_key"] = queue
            return callback(message)

        return super().basic_consume(queue=queue, callback=deliver, **options)  # type: ignore[misc]


def open_queues(queues: Iterable[str]) -> list[str]:
    """Returns the queues that may start another task."""
    return pools.open(queues, running()) if pools.limited else list(queues)


class OpenQueues:
    """The project's order of queues, without those that have no free process."""

    def __init__(self, order: Any) -> None:
        self._order = order

    def update(self, queues: Iterable[str]) -> None:
        self._order.update(queues)

    def consume(self, n: int) -> list[str]:
        return open_queues(self._order.consume(n))

    def rotate(self, last_used: str) -> None:
        self._order.rotate(last_used)


class _Slots(Marked):
    """Reads only queues that may start another task."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waits_on: frozenset[str] = frozenset()
        self._reader: tuple[Any, int | None] = (None, None)
        self._queue_cycle = OpenQueues(self._queue_cycle)  # type: ignore[has-type]

    def _brpop_start(self, timeout: float | None = None) -> Any:
        if pools.limited:
            self._waits_on = frozenset(open_queues(self.active_queues))  # type: ignore[attr-defined]
            self._find_reader(self.client.connection)  # type: ignore[attr-defined]
        return super()._brpop_start(timeout)  # type: ignore[misc]

    def _find_reader(self, connection: Any) -> None:
        """Ask Redis for the id of the connection that is about to wait, once per socket."""
        if self._reader[0] is connection._sock:
            return
        connection.send_command("CLIENT", "ID")
        try:
            self._reader = connection._sock, connection.read_response()
        except ResponseError as error:
            self._cannot_wake(connection._sock, error)

    def _cannot_wake(self, socket: Any, error: ResponseError) -> None:
        logger.warning(
            "Redis refuses CLIENT ID or UNBLOCK, so free processes may wait up to a second: %s", redacted(error)
        )
        self._reader = socket, None

    def wake(self) -> None:
        """Interrupt the wait if more queues may be read: a task ended, or weights have changed."""
        socket, reader = self._reader
        if not pools.limited or not self._in_poll or reader is None:  # type: ignore[attr-defined]
            return
        opened = frozenset(open_queues(self.active_queues))  # type: ignore[attr-defined]
        if opened <= self._waits_on:
            return
        self._waits_on |= opened
        try:
            with self.conn_or_acquire() as client:  # type: ignore[attr-defined]
                client.client_unblock(reader)
        except ResponseError as error:
            self._cannot_wake(socket, error)


class _QoS(redis.QoS):
    """Runs a message even if Redis is too full to record it as unacknowledged.

    If the worker is killed meanwhile, that message is lost, and a dispatch is then published again from the ledger.
    Unacknowledged messages that cannot be returned to their queue stay unacknowledged and are returned later, because
    otherwise the worker would end.
    """

    def restore_visible(self, *args: Any, **options: Any) -> None:
        with _unless_full("unacknowledged messages are restored later"):
            super().restore_visible(*args, **options)

    def restore_by_tag(self, *args: Any, **options: Any) -> None:
        with _unless_full("a message is restored later"):
            super().restore_by_tag(*args, **options)

    def append(self, message: Any, delivery_tag: str) -> None:
        with _unless_full("a message is run that cannot be delivered again"):
            super().append(message, delivery_tag)
        if delivery_tag not in self._delivered:  # type: ignore[operator]
            virtual.QoS.append(self, message, delivery_tag)


@contextmanager
def _unless_full(consequence: str) -> Iterator[None]:
    """Continue if Redis accepts no more data, and log the consequence."""
    try:
        yield
    except ResponseError as error:
        if not is_full(error):
            raise
        logger.warning("Redis is full, %s: %s", consequence, redacted(error))


class _ToleratesFullRedis:
    """Lets a worker start and run messages while Redis is full, because only that frees memory.

    A full Redis refuses every command that needs memory. kombu writes a queue's binding to a set each time it declares
    the queue, but does not need the binding to read it.
    """

    QoS = _QoS

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]
        except ResponseError as error:
            if not is_full(error) or not self._may_be_unbound(exchange, queue):
                raise
            logger.warning("Redis is full, so the queue %s is read without a binding: %s", queue, redacted(error))

    def _may_be_unbound(self, exchange: str, queue: str) -> bool:
        """Whether the binding is not needed now: nothing is routed by it, it is for replies that may be missed, it
        exists already, or the worker has messages to run, which frees memory.
        """
        if self.typeof(exchange).type == "fanout" or queue in self._expires:  # type: ignore[attr-defined]
            return True
        if any(bound == queue for *_, bound in self.get_table(exchange)):  # type: ignore[attr-defined]
            return True
        return any(self._size(name) for name in get_app().amqp.queues.consume_from)  # type: ignore[attr-defined]


class Poller(redis.MultiChannelPoller):
    _channels: set[Any]

    def on_poll_start(self) -> None:
        for channel in self._channels:
            channel.wake()
        super().on_poll_start()


class Channel(_ToleratesFullRedis, _SetsQueue, _Slots, publisher.Channel):  # type: ignore[misc]
    pass


class SentinelChannel(_ToleratesFullRedis, _SetsQueue, _Slots, publisher.SentinelChannel):  # type: ignore[misc]
    pass


class _OwnPoller:
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()


class Transport(_OwnPoller, publisher.Transport):
    Channel = Channel


class SentinelTransport(_OwnPoller, publisher.SentinelTransport):
    Channel = SentinelChannel
