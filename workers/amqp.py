"""RabbitMQ's transport of a worker: of each queue it is handed no more than the queue has processes.

The order between queues is RabbitMQ's own, so a shared process could not choose. The limit is the prefetch count of the
queue's consumer (basic.qos that is not global), which holds for a consumer from its start: another limit takes another
consumer. What the one before it has delivered stays in hand until it is acknowledged, and counts.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import pyamqp

from workers.in_hand import InHand
from workers.pools import pools


class Channel(InHand, pyamqp.Channel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._limits: dict[str, int] = {}
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue: str, **options: Any) -> Any:  # type: ignore[override]
        limit = pools.limit(queue)
        if limit:
            self._limits[queue] = limit - self.in_hand()[queue]
            self.basic_qos(0, self._limits[queue], False)  # noqa: FBT003 - for the consumers that follow
        return super().basic_consume(queue, **options)

    def follow_limits(self, consumer: Any, queues: Any) -> None:
        """Give each of these queues, which the consumer reads, the limit that it has now."""
        for queue in list(queues):
            limit = pools.limit(queue.name)
            left = limit - self.in_hand(but_by=consumer._active_tags.get(queue.name, ""))[queue.name]
            if not limit or left == self._limits.get(queue.name):
                continue
            consumer.cancel_by_queue(queue)
            self._limits[queue.name] = limit - self.in_hand()[queue.name]
            if self._limits[queue.name] > 0:
                consumer.add_queue(queue)
        consumer.consume()


class Connection(pyamqp.Connection):
    Channel = Channel


class Transport(pyamqp.Transport):
    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    Connection = Connection
