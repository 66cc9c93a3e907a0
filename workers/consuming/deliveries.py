"""What a worker is at, by queue."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from celery.worker import state

from broker_django.messaging.publishing import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = "broker_queue"
"""The key in a message's `delivery_info` of the queue that it was read from; its routing key may be another."""


handed: dict[str, float] = {}
"""When the latest dispatch that this worker was handed from each Celery queue was published (seconds since the epoch).

Queues are first in, first out: whatever was published before has left its queue too.
"""


class Marked:
    """Lets a channel of any transport say of each message which queue it was read from."""

    def basic_consume(self, queue: str, *, callback: Callable[[Any], Any], **options: Any) -> Any:
        def deliver(message: Any) -> Any:
            message.delivery_info[QUEUE] = queue
            _note(queue, message.headers.get(PUBLISHED))
            return callback(message)

        return super().basic_consume(queue=queue, callback=deliver, **options)  # type: ignore[misc]


def _note(queue: str, published: object) -> None:
    if isinstance(published, int | float):  # anybody who may write to the message broker can say so: it proves nothing
        handed[queue] = max(handed.get(queue, 0.0), min(published, time.time()))


def running(*, unacknowledged: bool = False) -> Counter[str]:
    """How many tasks of each queue have a process, or wait for one that is free; also those from before a reconnect.

    Tasks whose time has not come are not among them. With `unacknowledged` neither are those that were acknowledged
    before they began.
    """
    return Counter(
        request.message.delivery_info.get(QUEUE, "")
        for request in _reserved()
        if not unacknowledged or request.task.acks_late
    )


def _reserved() -> list[Any]:
    while True:
        try:
            return list(state.reserved_requests)
        except RuntimeError:  # a thread of the pool has just ended one
            continue
