"""What a worker holds of each queue."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class InHand:
    """Lets a channel of any transport know which messages it has delivered and not yet acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._in_hand: dict[Any, tuple[str, str]] = {}
        super().__init__(*args, **kwargs)

    def in_hand(self, but_by: str = "") -> Counter[str]:
        """How many messages of each queue; `but_by` leaves out those of this consumer, by its tag."""
        return Counter(queue for queue, consumer in list(self._in_hand.values()) if not but_by or consumer != but_by)

    def basic_consume(
        self, queue: str, *, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **options: Any
    ) -> Any:
        def deliver(message: Any) -> Any:
            if not no_ack:
                self._in_hand[message.delivery_tag] = queue, consumer_tag
            return callback(message)

        return super().basic_consume(  # type: ignore[misc]
            queue=queue, no_ack=no_ack, callback=deliver, consumer_tag=consumer_tag, **options
        )

    def basic_ack(self, delivery_tag: Any, *args: Any, **kwargs: Any) -> Any:
        self._in_hand.pop(delivery_tag, None)
        return super().basic_ack(delivery_tag, *args, **kwargs)  # type: ignore[misc]

    def basic_reject(self, delivery_tag: Any, *args: Any, **kwargs: Any) -> Any:
        self._in_hand.pop(delivery_tag, None)
        return super().basic_reject(delivery_tag, *args, **kwargs)  # type: ignore[misc]
