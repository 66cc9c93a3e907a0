from __future__ import annotations

import threading

import pytest

from broker_core.breakers import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(5.0, clock)


def test_all_may_try_while_it_is_closed(breaker):
    assert [breaker.allows() for _ in range(3)] == [True] * 3
    assert not breaker.is_open


def test_after_a_failure_only_one_caller_tries(breaker, clock):
    breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()
    clock.now += 5
    assert not breaker.is_open
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_a_success_closes_it_and_another_failure_does_not(breaker, clock):
    breaker.failed()
    clock.now += 5
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    clock.now += 5
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True] * 3


def test_a_try_without_an_outcome_is_followed_by_another(breaker, clock):
    breaker.failed()
    clock.now += 5
    assert breaker.allows()
    clock.now += 5
    assert breaker.allows()


def test_failures_are_counted_for_callers_that_waited(breaker):
    before = breaker.failures
    breaker.failed()
    breaker.succeeded()
    assert breaker.failures == before + 1


def test_of_many_threads_one_tries(clock):
    breaker = CircuitBreaker(5.0, clock)
    breaker.failed()
    clock.now += 5
    barrier, allowed = threading.Barrier(16), []

    def ask() -> None:
        barrier.wait()
        if breaker.allows():
            allowed.append(1)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert allowed == [1]
