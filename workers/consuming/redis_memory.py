"""What Redis says when it is at its `maxmemory`."""

from __future__ import annotations

from redis.exceptions import ExecAbortError, OutOfMemoryError


def is_full(error: BaseException) -> bool:
    """Whether Redis refused a command for want of memory.

    It refuses a whole transaction at its end if the memory ran out after it had taken the commands one by one.
    """
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ExecAbortError) and "maxmemory" in str(error))
