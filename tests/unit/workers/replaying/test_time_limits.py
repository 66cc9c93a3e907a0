from __future__ import annotations

import signal
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from billiard.pool import soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded

from workers.replaying.time_limits import past_soft_limit, raise_if_past_soft_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def handled_by() -> Iterator[Callable[[object], None]]:
    """Set the handler of the soft time limit's signal."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def test_the_soft_limit_interrupts_only_what_follows_the_block(handled_by: Callable[[object], None]) -> None:
    handled_by(soft_timeout_sighandler)
    with past_soft_limit():
        signal.raise_signal(signal.SIGUSR1)
    with pytest.raises(SoftTimeLimitExceeded):
        signal.raise_signal(signal.SIGUSR1)


def test_an_error_in_the_block_is_raised_and_the_limit_applies_again(handled_by: Callable[[object], None]) -> None:
    handled_by(soft_timeout_sighandler)
    with pytest.raises(LookupError), past_soft_limit():
        raise LookupError
    with pytest.raises(SoftTimeLimitExceeded):
        signal.raise_signal(signal.SIGUSR1)


def test_the_signal_keeps_another_meaning_outside_of_prefork(handled_by: Callable[[object], None]) -> None:
    seen = []
    handled_by(lambda *_: seen.append(1))
    with past_soft_limit():
        signal.raise_signal(signal.SIGUSR1)
    assert seen


@pytest.mark.parametrize(
    ("limits", "seconds", "raises"), [((9, 5), 5, True), ((9, 5), 4, False), ((9, None), 8, False), (None, 99, False)]
)
def test_a_limit_that_a_receiver_swallowed_is_raised_again(
    handled_by: Callable[[object], None], limits: tuple[float, float | None] | None, seconds: float, raises: bool
) -> None:
    handled_by(soft_timeout_sighandler)
    request = SimpleNamespace(timelimit=limits, broker_began=time.monotonic() - seconds)
    with pytest.raises(SoftTimeLimitExceeded) if raises else nullcontext():
        raise_if_past_soft_limit(request)


def test_pools_without_processes_have_no_soft_limit(handled_by: Callable[[object], None]) -> None:
    handled_by(signal.SIG_DFL)
    raise_if_past_soft_limit(SimpleNamespace(timelimit=(9, 5), broker_began=time.monotonic() - 99))
