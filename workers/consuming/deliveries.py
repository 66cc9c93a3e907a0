"""The messages that a worker holds, by queue."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from celery.worker import state

from broker_django.messaging.publishing import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = "broker_queue"
"""The key in a message's `delivery_info` for the queue that it was read from. Its routing key may differ."""


latest_published: dict[str, float] = {}
"""By Celery queue, when the latest dispatch that this worker received was published (seconds since the epoch).

Queues are first in, first out, so everything published earlier has left its queue, too.
"""


class Marked:
    """Lets a channel of any transport mark each message with the queue that it was read from."""

    def basic_consume(self, queue: str, *, callback: Callable[[Any], Any], **options: Any) -> Any:
        def deliver(message: Any) -> Any:
            message.delivery_info[QUEUE] = queue
            _record(queue, message.headers.get(PUBLISHED))
            return callback(message)

        return super().basic_consume(queue=queue, callback=deliver, **options)  # type: ignore[misc]


def _record(queue: str, published: object) -> None:
    if isinstance(published, int | float):  # not trusted: anybody who can write to the message broker can set it
        latest_published[queue] = max(latest_published.get(queue, 0.0), min(published, time.time()))


def running(*, unacknowledged: bool = False) -> Counter[str]:
    """Counts the tasks of each queue that have a process or wait for one, including those from before a reconnect.

    Tasks with a later ETA are not counted, and with `unacknowledged` neither are tasks that were acknowledged before
    they began.
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
        except RuntimeError:  # a thread of the pool has just removed one
            continue
