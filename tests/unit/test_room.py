from __future__ import annotations

import pytest

from broker_django.room import Room

MOST = 10


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(clock: Clock) -> Room:
    return Room(clock)


def never() -> bool:
    raise AssertionError("nobody has to ask")


def is_full(room: Room) -> bool:
    return room.is_full(MOST, never)


def test_the_first_one_is_published_and_tells_how_many_wait(room: Room) -> None:
    assert not is_full(room)
    room.note(lambda: MOST)
    assert is_full(room)


def test_what_this_process_publishes_counts_until_the_message_broker_is_asked_again(room: Room, clock: Clock) -> None:
    asked: list[float] = []

    def ask() -> int:
        asked.append(clock.now)
        return MOST - 3

    for _ in range(3):
        room.note(ask)
        clock.now += 0.1
    assert not is_full(room)
    room.note(ask)
    assert is_full(room)
    assert asked == [100.0], "once a second"


def test_a_queue_that_drains_meanwhile_takes_more(room: Room, clock: Clock) -> None:
    room.note(lambda: MOST - 1)
    clock.now += 1
    room.note(lambda: 0)
    assert not is_full(room)


def test_a_full_one_takes_no_more_while_the_ledger_holds_some(room: Room, clock: Clock) -> None:
    room.note(lambda: MOST)
    assert is_full(room)
    clock.now += 1
    assert room.is_full(MOST, lambda: True)
    assert room.is_full(MOST, never), "asked once a second"
    clock.now += 1
    assert not room.is_full(MOST, lambda: False)
    room.note(lambda: MOST)
    assert is_full(room), "the next one tells whether there is room"


def test_somebody_elses_messages_count_too(room: Room, clock: Clock) -> None:
    room.note(lambda: 0)
    clock.now += 1
    room.note(lambda: 5 * MOST)
    assert is_full(room)
