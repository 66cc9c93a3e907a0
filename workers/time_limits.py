"""The soft time limit, which a pool's process is told by a signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOFT_TIME_LIMIT = getattr(signal, "SIGUSR1", None)
"""The signal that billiard sends. Windows has none, and no soft time limit."""


@contextlib.contextmanager
def past_soft_limit() -> Iterator[None]:
    """The soft time limit does not interrupt the block: until the hard one there is time to tell how the view ended.

    An exception between BEGIN and the body of `transaction.atomic` would leave the transaction open for good.
    """
    if SOFT_TIME_LIMIT is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(SOFT_TIME_LIMIT, _ignore)
    try:
        yield
    finally:
        signal.signal(SOFT_TIME_LIMIT, before)


def _ignore(_number: int, _frame: object) -> None:
    """Unlike SIG_IGN it is not passed on to what the view has started."""
