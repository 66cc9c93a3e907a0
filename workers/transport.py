"""The Redis transport, told the truth about queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import TRANSPORT_ALIASES

from broker_django import transport
from broker_django.celery_app import TASK

if TYPE_CHECKING:
    from collections.abc import Callable


class _TrueQueue:
    """Gives each dispatch the queue that it was read from, whatever the message itself says.

    On Redis the routing key travels inside the message: one that was moved to another list would keep the old one.
    The project's own tasks keep theirs: Celery retries a task with the routing key that it came with.
    """

    def basic_consume(self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001
        def deliver(message: Any) -> Any:
            if message.headers.get("task", TASK) == TASK:  # version 1 of Celery's protocol has the name in the body
                message.delivery_info["routing_key"] = queue
            return callback(message)

        return super().basic_consume(queue, no_ack, deliver, *args, **kwargs)  # type: ignore[misc]


class Channel(_TrueQueue, transport.Channel):  # type: ignore[misc]
    pass


class SentinelChannel(_TrueQueue, transport.SentinelChannel):  # type: ignore[misc]
    pass


class Transport(transport.Transport):
    Channel = Channel


class SentinelTransport(transport.SentinelTransport):
    Channel = SentinelChannel


def install() -> None:
    """Serve Redis URLs with these transports in this process, which is a worker. URLs and Flower stay as they are."""
    TRANSPORT_ALIASES.update(
        redis=f"{__name__}:{Transport.__name__}",
        rediss=f"{__name__}:{Transport.__name__}",
        sentinel=f"{__name__}:{SentinelTransport.__name__}",
    )
