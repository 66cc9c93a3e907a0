"""Recognise Redis' errors when it has reached `maxmemory`."""

from __future__ import annotations

from redis.exceptions import ExecAbortError, OutOfMemoryError


def is_full(error: BaseException) -> bool:
    """Whether Redis refused a command for lack of memory.

    If memory runs out within a transaction, Redis refuses the whole transaction at its end.
    """
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ExecAbortError) and "maxmemory" in str(error))
