from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded

from workers.time_limits import SOFT_TIME_LIMIT, past_soft_limit

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def as_in_a_pool() -> Iterator[None]:
    assert SIG_SOFT_TIMEOUT == SOFT_TIME_LIMIT
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_the_soft_limit_does_not_interrupt_the_block_but_what_follows() -> None:
    with past_soft_limit():
        signal.raise_signal(signal.SIGUSR1)
    with pytest.raises(SoftTimeLimitExceeded):
        signal.raise_signal(signal.SIGUSR1)


def test_an_error_in_the_block_is_passed_on_and_the_limit_counts_again() -> None:
    with pytest.raises(LookupError), past_soft_limit():
        raise LookupError
    with pytest.raises(SoftTimeLimitExceeded):
        signal.raise_signal(signal.SIGUSR1)


def test_a_pool_of_threads_has_no_signals() -> None:
    ran = []

    def in_thread() -> None:
        with past_soft_limit():
            ran.append(1)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert ran
