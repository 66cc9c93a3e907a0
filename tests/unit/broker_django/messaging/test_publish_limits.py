from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from broker_django.messaging.publish_limits import PublishLimit

MOST = 10


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> PublishLimit:
    return PublishLimit(clock)


def never() -> Any:
    raise AssertionError("nobody has to ask")


def is_full(limit: PublishLimit) -> bool:
    return limit.is_full(MOST, never, never)


def test_the_first_one_is_published_and_reports_how_many_wait(limit: PublishLimit) -> None:
    assert not is_full(limit)
    limit.count_published(lambda: MOST)
    assert is_full(limit)


def test_own_messages_count_until_the_message_broker_is_asked_again(limit: PublishLimit, clock: Clock) -> None:
    asked: list[float] = []

    def ask() -> int:
        asked.append(clock.now)
        return MOST - 3

    for _ in range(3):
        limit.count_published(ask)
        clock.now += 0.1
    assert not is_full(limit)
    limit.count_published(ask)
    assert is_full(limit)
    assert asked == [100.0], "once a second"


def test_a_queue_that_drains_accepts_more(limit: PublishLimit, clock: Clock) -> None:
    limit.count_published(lambda: MOST - 1)
    clock.now += 1
    limit.count_published(lambda: 0)
    assert not is_full(limit)


def test_a_full_one_takes_no_more_while_the_ledger_holds_some(limit: PublishLimit, clock: Clock) -> None:
    limit.count_published(lambda: MOST)
    assert is_full(limit)
    clock.now += 1
    assert limit.is_full(MOST, lambda: True, never)
    assert limit.is_full(MOST, never, never), "asked once a second"
    clock.now += 1
    assert not limit.is_full(MOST, lambda: False, lambda: 0)
    assert not is_full(limit)


def test_a_full_one_takes_no_more_until_half_of_it_has_left_the_message_broker(
    limit: PublishLimit, clock: Clock
) -> None:
    limit.count_published(lambda: MOST)
    assert is_full(limit)
    for waiting in (MOST, MOST // 2):
        clock.now += 1
        assert limit.is_full(MOST, lambda: False, lambda waiting=waiting: waiting)
    clock.now += 1
    assert not limit.is_full(MOST, lambda: False, lambda: MOST // 2 - 1)
    for _ in range(MOST - MOST // 2 + 1):
        assert not is_full(limit)
        limit.count_published(never)
    assert is_full(limit), "what waits counts on"


def test_a_bound_of_one_takes_another_when_it_is_empty(limit: PublishLimit, clock: Clock) -> None:
    limit.count_published(lambda: 1)
    assert limit.is_full(1, never, never)
    clock.now += 1
    assert limit.is_full(1, lambda: False, lambda: 1)
    clock.now += 1
    assert not limit.is_full(1, lambda: False, lambda: 0)


def test_a_full_one_takes_more_if_the_message_broker_does_not_report_a_length(
    limit: PublishLimit, clock: Clock
) -> None:
    limit.count_published(lambda: MOST)
    assert is_full(limit)
    clock.now += 1
    assert not limit.is_full(MOST, lambda: False, lambda: None)


def test_messages_of_other_processes_count_too(limit: PublishLimit, clock: Clock) -> None:
    limit.count_published(lambda: 0)
    clock.now += 1
    limit.count_published(lambda: 5 * MOST)
    assert is_full(limit)


TICK = 0.05
BOUND = 500
PATIENCE = 2.0
"""Seconds after which a reaper should have published what is due."""


class Simulation:
    """Web processes, a message broker, a ledger, reapers and workers, each with a rate per second."""

    def __init__(self, clock: Clock, *, web: int, reapers: int, reaped: float, worked: float) -> None:
        self.clock = clock
        self.limits = [PublishLimit(clock) for _ in range(web)]
        self.broker: deque[float] = deque()
        """When the messages were accepted."""
        self.held: deque[float] = deque()
        self.worked, self.reaped = worked, reaped
        self.overtaken = 0.0
        """By how many seconds a later one was published first, at most."""
        self._latest = 0.0
        self._chance = random.Random(7)
        self._reapers = [(clock.now, clock.now)] * reapers
        """When each reaper's pass began, and when it ends."""
        self._share = [0.0, 0.0]

    def run(self, seconds: float, arrivals: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.clock.now += TICK
            for _ in range(self._whole(0, arrivals)):
                self._arrives(self._chance.choice(self.limits))
            for number in range(len(self._reapers)):
                self._reap(number)
            for _ in range(min(self._whole(1, self.worked), len(self.broker))):
                self.broker.popleft()

    def is_slow(self) -> bool:
        return any(limit._is_full for limit in self.limits)

    def _whole(self, place: int, rate: float) -> int:
        self._share[place] += rate * TICK
        whole = int(self._share[place])
        self._share[place] -= whole
        return whole

    def _holds(self) -> bool:
        return bool(self.held) and self.held[0] <= self.clock.now - PATIENCE

    def _arrives(self, limit: PublishLimit) -> None:
        if limit.is_full(BOUND, self._holds, lambda: len(self.broker)):
            self.held.append(self.clock.now)
        else:
            self._publish(self.clock.now)
            limit.count_published(lambda: len(self.broker))

    def _publish(self, accepted: float) -> None:
        self.overtaken = max(self.overtaken, self._latest - accepted)
        self._latest = max(self._latest, accepted)
        self.broker.append(accepted)

    def _reap(self, number: int) -> None:
        began, ends = self._reapers[number]
        if self.clock.now > ends:
            began = ends + self._chance.uniform(0.5, 1.5)
            self._reapers[number] = began, began + 1
        if began <= self.clock.now:
            for _ in range(round(self.reaped * TICK)):
                if self.held and self.held[0] <= began and len(self.broker) < BOUND:
                    self._publish(self.held.popleft())


@pytest.mark.parametrize(("web", "reapers"), [(1, 1), (4, 1), (2, 4)])
def test_a_queue_that_was_full_is_published_at_once_again_under_traffic(clock: Clock, web: int, reapers: int) -> None:
    site = Simulation(clock, web=web, reapers=reapers, reaped=600, worked=300)
    site.run(5, arrivals=1_500)
    assert site.is_slow()
    assert len(site.broker) <= BOUND + web * 1_500, "what comes in a second"
    site.run(10, arrivals=200)
    assert site.is_slow(), "the backlog comes first"
    site.run(65, arrivals=200)
    assert not site.is_slow()
    assert site.overtaken < 2 * PATIENCE
    site.run(60, arrivals=200)
    assert not site.held
