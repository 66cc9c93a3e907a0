"""A worker's RabbitMQ transport: it receives no more messages of each queue than the queue has processes.

RabbitMQ chooses the order between queues, so a process that serves several queues cannot follow weights. The limit is
the prefetch count of the queue's consumer (non-global basic.qos), which is fixed when the consumer starts, so a new
limit needs a new consumer. Messages delivered to an older consumer stay until they are acknowledged, and count.

While RabbitMQ blocks publishers, events and replies are dropped. The worker continues, which ends the alarm.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from kombu.transport import pyamqp

from broker_django.messaging import rabbitmq
from broker_django.messaging.celery_app import get_app
from workers.consuming.deliveries import Marked, running
from workers.consuming.slots import pools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kombu import Queue


def _fleeting() -> set[str]:
    """Returns the exchanges whose messages may be dropped: events, remote control commands and their replies."""
    conf = get_app().conf
    control = f"{conf.control_exchange}.pidbox"
    return {conf.event_exchange, control, f"reply.{control}"}


class Channel(Marked, pyamqp.Channel):
    connection: Connection | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unacknowledged: dict[int, str] = {}
        """Consumer tags by delivery tag."""
        self._consumed: dict[str, str] = {}
        """Queues by consumer tag."""
        self._limits: dict[str, int] = {}
        """The limit that each queue's consumer was started with."""
        super().__init__(*args, **kwargs)

    def basic_consume(  # type: ignore[override]
        self, queue: str, *, callback: Callable[[Any], Any], consumer_tag: str, no_ack: bool, **options: Any
    ) -> Any:
        def deliver(message: Any) -> Any:
            if not no_ack:
                self._unacknowledged[message.delivery_tag] = consumer_tag
            return callback(message)

        if pools.plan is not None:
            limit = max(self._limit(queue), 1) if pools.limit(queue) else pools.total_limit
            self.basic_qos(0, limit, False)  # noqa: FBT003 - not global: for the next consumers
            self._limits[queue] = limit
        self._consumed[consumer_tag] = queue
        return super().basic_consume(queue=queue, callback=deliver, consumer_tag=consumer_tag, no_ack=no_ack, **options)

    def basic_cancel(self, consumer_tag: str, *args: Any, **kwargs: Any) -> Any:
        self._limits.pop(self._consumed.pop(consumer_tag, ""), None)
        return super().basic_cancel(consumer_tag, *args, **kwargs)

    def basic_ack(self, delivery_tag: int, *args: Any, **kwargs: Any) -> Any:
        self._unacknowledged.pop(delivery_tag, None)
        return super().basic_ack(delivery_tag, *args, **kwargs)

    def basic_reject(self, delivery_tag: int, *args: Any, **kwargs: Any) -> Any:
        self._unacknowledged.pop(delivery_tag, None)
        return super().basic_reject(delivery_tag, *args, **kwargs)

    def basic_publish(self, msg: Any, exchange: str = "", *args: Any, **options: Any) -> Any:
        if exchange in _fleeting():
            return self._publish_fleeting(msg, exchange, *args, **options)
        return super().basic_publish(msg, exchange, *args, **options)

    def basic_publish_confirm(self, msg: Any, exchange: str = "", *args: Any, **options: Any) -> Any:
        if exchange in _fleeting():
            return self._publish_fleeting(msg, exchange, *args, **options)
        return super().basic_publish_confirm(msg, exchange, *args, **options)

    def _publish_fleeting(self, *args: Any, **options: Any) -> Any:
        """The main loop sends them, so it must not wait for a confirmation, or until RabbitMQ reads again."""
        if self.connection and self.connection.is_still_blocked():
            return None
        return self._basic_publish(*args, **options)  # type: ignore[attr-defined] # not in its stubs

    def _limit(self, queue: str, consumer_tag: str = "") -> int:
        """Returns how many messages the consumer of this queue (this one, or a new one) may hold.

        Messages with a later ETA need no process; those of older consumers or of a lost connection do.
        """
        own = list(self._unacknowledged.values()).count(consumer_tag)
        return pools.limit(queue) - running(unacknowledged=True)[queue] + own

    def follow_limits(self, consumer: Any, queues: Iterable[Queue]) -> None:
        """Give each of these queues, which this kombu consumer reads, its current limit."""
        for queue in list(queues):
            limit = self._limit(queue.name, consumer._active_tags.get(queue.name, ""))
            if not pools.limit(queue.name) or limit == self._limits.get(queue.name):
                continue
            consumer.cancel_by_queue(queue)
            if self._limit(queue.name) > 0:  # otherwise later, when some messages are done
                consumer.add_queue(queue)
        consumer.consume()


class Connection(rabbitmq.Connection):
    Channel = Channel

    def is_still_blocked(self) -> bool:
        """Whether it is still blocked, after reading RabbitMQ's latest notification."""
        if self.is_blocked:
            with contextlib.suppress(TimeoutError):
                self.drain_events(timeout=0)
        return self.is_blocked


class Transport(rabbitmq.Transport):
    Connection = Connection


class SSLTransport(rabbitmq.SSLTransport):
    Connection = Connection
