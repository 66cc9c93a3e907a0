"""RabbitMQ's transport of a worker: of each queue it is handed no more than the queue has processes.

The order between queues is RabbitMQ's own, so a shared process could not choose. The limit is the prefetch count of the
queue's consumer (basic.qos that is not global), which holds for a consumer from its start: another limit takes another
consumer. What an older one has delivered stays in hand until it is acknowledged, and counts.

Events and replies are dropped while RabbitMQ blocks who publishes: the worker goes on, which ends the alarm.
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
    """The exchanges of what nobody misses: events, remote control commands and the replies to them."""
    conf = get_app().conf
    control = f"{conf.control_exchange}.pidbox"
    return {conf.event_exchange, control, f"reply.{control}"}


class Channel(Marked, pyamqp.Channel):
    connection: Connection | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unacknowledged: dict[int, str] = {}
        """The consumer of each message, by delivery tag."""
        self._consumed: dict[str, str] = {}
        """The queue of each consumer."""
        self._limits: dict[str, int] = {}
        """What the consumer of each queue was started with."""
        super().__init__(*args, **kwargs)

    def basic_consume(  # type: ignore[override]
        self, queue: str, *, callback: Callable[[Any], Any], consumer_tag: str, no_ack: bool, **options: Any
    ) -> Any:
        def deliver(message: Any) -> Any:
            if not no_ack:
                self._unacknowledged[message.delivery_tag] = consumer_tag
            return callback(message)

        if pools.plan is not None:
            limit = max(self._limit(queue), 1) if pools.limit(queue) else pools.all_in_hand
            self.basic_qos(0, limit, False)  # noqa: FBT003 - not global: for the consumers that follow
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
        """The main loop sends them: it waits for no confirmation, nor until RabbitMQ reads again."""
        if self.connection and self.connection.is_still_blocked():
            return None
        return self._basic_publish(*args, **options)  # type: ignore[attr-defined] # not in its stubs

    def _limit(self, queue: str, consumer_tag: str = "") -> int:
        """How many messages the consumer of this queue may hold, which is this one, or a new one.

        Those whose time has not come take no process; those of older consumers, or of a lost connection, do.
        """
        held = list(self._unacknowledged.values()).count(consumer_tag)
        return pools.limit(queue) - running(unacknowledged=True)[queue] + held

    def follow_limits(self, consumer: Any, queues: Iterable[Queue]) -> None:
        """Give each of these queues, which this consumer of kombu's reads, the limit that it has now."""
        for queue in list(queues):
            limit = self._limit(queue.name, consumer._active_tags.get(queue.name, ""))
            if not pools.limit(queue.name) or limit == self._limits.get(queue.name):
                continue
            consumer.cancel_by_queue(queue)
            if self._limit(queue.name) > 0:  # else at another look, when some of what it has is done
                consumer.add_queue(queue)
        consumer.consume()


class Connection(rabbitmq.Connection):
    Channel = Channel

    def is_still_blocked(self) -> bool:
        """Whether it is blocked, after reading whether RabbitMQ has said otherwise."""
        if self.is_blocked:
            with contextlib.suppress(TimeoutError):
                self.drain_events(timeout=0)
        return self.is_blocked


class Transport(rabbitmq.Transport):
    Connection = Connection


class SSLTransport(rabbitmq.SSLTransport):
    Connection = Connection
