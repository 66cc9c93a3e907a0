"""A circuit breaker: after a failure, callers fail at once until one of them has tried again successfully."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class CircuitBreaker:
    """Closed while all is well. A failure opens it; then it lets one caller try every `reset_after` seconds.

    See M. Nygard, "Release It!". Thread-safe; it holds no lock during a try.
    """

    def __init__(self, reset_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._reset_after = reset_after
        self._clock = clock
        self._lock = threading.Lock()
        self._next_try: float | None = None
        self.failures = 0
        """The number of failures so far. A caller that had to wait can see whether others failed in the meantime."""

    @property
    def is_open(self) -> bool:
        """Whether `allows` would return False. Reading this does not use up the try."""
        next_try = self._next_try
        return next_try is not None and self._clock() < next_try

    def allows(self) -> bool:
        """Whether the caller may try. If so, it must call `succeeded` or `failed` afterwards."""
        if self._next_try is None:
            return True
        with self._lock:
            now = self._clock()
            if self.is_open:
                return False
            self._next_try = now + self._reset_after  # the others wait for the outcome of this try
            return True

    def succeeded(self) -> None:
        self._next_try = None

    def failed(self) -> None:
        with self._lock:
            self.failures += 1
            self._next_try = self._clock() + self._reset_after
