"""The soft time limit, of which a process of a prefork pool is told by a signal."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler

if TYPE_CHECKING:
    from collections.abc import Iterator

SOFT_TIME_LIMIT: int | None = SIG_SOFT_TIMEOUT
"""The signal; Windows has none."""


@contextlib.contextmanager
def past_soft_limit() -> Iterator[None]:
    """The soft time limit does not interrupt the block: until the hard one there is time to tell how the view ended.

    An exception between BEGIN and the body of `transaction.atomic` would leave the transaction open for good.
    """
    if SOFT_TIME_LIMIT is None or signal.getsignal(SOFT_TIME_LIMIT) is not soft_timeout_sighandler:
        yield  # another pool: there is no soft limit
        return
    signal.signal(SOFT_TIME_LIMIT, _ignore)
    try:
        yield
    finally:
        signal.signal(SOFT_TIME_LIMIT, soft_timeout_sighandler)


def _ignore(_number: int, _frame: object) -> None:
    """Unlike SIG_IGN it is not passed on to what the view has started."""
