"""The soft time limit, which a signal announces to a process of a prefork pool."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

SOFT_TIME_LIMIT: int | None = SIG_SOFT_TIMEOUT
"""The signal; None on Windows."""


@contextlib.contextmanager
def past_soft_limit() -> Iterator[None]:
    """Prevent the soft time limit from interrupting the block. Until the hard limit, there is time to record the
    outcome.

    An exception between BEGIN and the body of `transaction.atomic` would leave the transaction open.
    """
    if SOFT_TIME_LIMIT is None or not _is_limited():
        yield
        return
    signal.signal(SOFT_TIME_LIMIT, _ignore)
    try:
        yield
    finally:
        signal.signal(SOFT_TIME_LIMIT, soft_timeout_sighandler)


def raise_if_past_soft_limit(request: Any) -> None:
    """Raise SoftTimeLimitExceeded if a receiver of a signal swallowed it, or would have been interrupted by it."""
    soft: float | None = (request.timelimit or (None, None))[1]
    if soft is not None and _is_limited() and time.monotonic() - request.broker_began >= soft:
        raise SoftTimeLimitExceeded


def _is_limited() -> bool:
    """Whether this process has a soft time limit, which only pools of processes have."""
    return SOFT_TIME_LIMIT is not None and signal.getsignal(SOFT_TIME_LIMIT) is soft_timeout_sighandler


def _ignore(_number: int, _frame: object) -> None:
    """Unlike SIG_IGN, it is not inherited by processes that the view started."""
