"""The Redis transport of a worker: it knows the true queue of a message, and reads only queues with a process free."""

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


def open_queues(queues: Iterable[str]) -> list[str]:
    """Those of which another task may start."""
    return pools.open(queues, running()) if pools.limited else list(queues)


class OpenQueues:
    """The order of queues that the project chose, without those that have no process free."""

    def __init__(self, order: Any) -> None:
        self._order = order

    def update(self, queues: Iterable[str]) -> None:
        self._order.update(queues)

    def consume(self, n: int) -> list[str]:
        return open_queues(self._order.consume(n))

    def rotate(self, last_used: str) -> None:
        self._order.rotate(last_used)


class _Slots(Marked):
    """Reads only queues of which another task may start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waits_on: frozenset[str] = frozenset()
        self._reader: tuple[Any, int | None] = (None, None)
        self._queue_cycle = OpenQueues(self._queue_cycle)  # type: ignore[has-type]

    def _brpop_start(self, timeout: float | None = None) -> Any:
        if pools.limited:
            self._waits_on = frozenset(open_queues(self.active_queues))  # type: ignore[attr-defined]
            self._note_reader(self.client.connection)  # type: ignore[attr-defined]
        return super()._brpop_start(timeout)  # type: ignore[misc]

    def _note_reader(self, connection: Any) -> None:
        """Ask Redis what it calls the connection that is about to wait, once for each socket."""
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
        """Read anew where queues may be read that are not being waited on: a task ended, or weights have changed."""
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
    """Runs a message that was read from a Redis which is too full to note it as unacknowledged.

    Should the worker be killed meanwhile, that message is lost. A dispatch is published again then, from the ledger.
    What is unacknowledged and cannot be put back into its queue stays unacknowledged, and is put back later: a worker
    would end otherwise.
    """

    def restore_visible(self, *args: Any, **options: Any) -> None:
        with _unless_full("unacknowledged messages are restored later"):
            super().restore_visible(*args, **options)

    def restore_by_tag(self, *args: Any, **options: Any) -> None:
        with _unless_full("a message is restored later"):
            super().restore_by_tag(*args, **options)

    def append(self, message: Any, delivery_tag: str) -> None:
        with _unless_full("a message is run that it cannot deliver again"):
            super().append(message, delivery_tag)
        if delivery_tag not in self._delivered:  # type: ignore[operator]
            virtual.QoS.append(self, message, delivery_tag)


@contextmanager
def _unless_full(consequence: str) -> Iterator[None]:
    """Go on if Redis takes nothing any more, and log what follows from it."""
    try:
        yield
    except ResponseError as error:
        if not is_full(error):
            raise
        logger.warning("Redis is full, %s: %s", consequence, redacted(error))


class _MakesRoom:
    """Lets a worker start, and run what it reads, while Redis is full: nothing else makes room there.

    Redis refuses all that needs memory then. kombu binds a queue by writing it into a set, each time it declares it,
    but needs no binding to read it.
    """

    QoS = _QoS

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]
        except ResponseError as error:
            if not is_full(error) or not self._may_be_unbound(exchange, queue):
                raise
            logger.warning("Redis is full, the queue %s is read without being bound: %s", queue, redacted(error))

    def _may_be_unbound(self, exchange: str, queue: str) -> bool:
        """Whether nothing is routed by it, it is for replies that can be missed, it was bound before, or the worker has
        messages to run, which makes room.
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


class Channel(_MakesRoom, _TrueQueue, _Slots, publisher.Channel):  # type: ignore[misc]
    pass


class SentinelChannel(_MakesRoom, _TrueQueue, _Slots, publisher.SentinelChannel):  # type: ignore[misc]
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
