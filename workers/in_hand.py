"""What a worker is at, by queue."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from celery.worker import state

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = "broker_queue"
"""The key in a message's `delivery_info` of the queue that it was read from; its routing key may be another."""


class Marked:
    """Lets a channel of any transport say of each message which queue it was read from."""

    def basic_consume(self, queue: str, *, callback: Callable[[Any], Any], **options: Any) -> Any:
        def deliver(message: Any) -> Any:
            message.delivery_info[QUEUE] = queue
            return callback(message)

        return super().basic_consume(queue=queue, callback=deliver, **options)  # type: ignore[misc]


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
