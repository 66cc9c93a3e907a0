"""Which clients are held, and for how long."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from broker_core.client_limits import AT_A_TIME, LEAST, SHARE, Guest, Limits, Places, Server, TimeBudget

LIMITS = Limits(total=5, per_client=3, per_dispatch=2, threads=4)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def guest(client: str = "ada", dispatch: str = "1", server: Server = Server.LOOP) -> Guest:
    return Guest(client, dispatch, server)


def granted(places: Places, guests: list[Guest], seconds: float = 10, limits: Limits = LIMITS) -> list[float]:
    """Returns the seconds for each guest while all earlier ones are held."""
    with ExitStack() as held:
        return [held.enter_context(places.hold(each, seconds, limits)) for each in guests]


@pytest.mark.parametrize(
    ("guests", "held"),
    [
        ([guest(f"c{n}", f"d{n}") for n in range(7)], 5),
        ([guest("ada", f"d{n}") for n in range(7)], 3),
        ([guest(f"c{n}", "one") for n in range(7)], 2),
    ],
    ids=["process", "client", "dispatch"],
)
def test_a_limit_counts_only_clients_that_wait(guests: list[Guest], held: int) -> None:
    places = Places()
    for _ in range(2):
        assert granted(places, guests) == [10.0] * held + [0.0] * (len(guests) - held)
        assert places.held == 0


def test_a_client_whose_wait_fails_no_longer_counts() -> None:
    places = Places()
    with pytest.raises(ConnectionError), places.hold(guest(), 10, LIMITS):
        raise ConnectionError
    assert places.held == 0


def test_half_of_the_threads_that_were_seen_are_held_and_no_more_than_the_limit() -> None:
    places, held, over = Places(), [], threading.Event()
    entered = threading.Semaphore(0)

    def serve(number: int) -> None:
        with places.hold(guest(f"c{number}", f"d{number}", Server.THREADS), 10, Limits(99, 99, 99, 4)) as seconds:
            held.append(seconds)
            entered.release()
            over.wait(10)

    threads = [threading.Thread(target=serve, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
        entered.acquire(timeout=10)
    over.set()
    for thread in threads:
        thread.join()
    assert [bool(seconds) for seconds in held] == [True, False, False, True, False, True, False, True] + [False] * 4


def test_a_process_in_which_one_thread_was_seen_may_have_no_other(clock: Clock) -> None:
    places, threaded = Places(clock), guest(server=Server.THREADS)
    with places.hold(threaded, 30, LIMITS) as seconds:
        assert seconds == AT_A_TIME
        clock.now += seconds
    assert granted(places, [threaded], 30) == [0.0]
    another = threading.Thread(target=places.register_thread)
    another.start()
    another.join()
    assert granted(places, [threaded, threaded], 30) == [30.0, 0.0]
    places.reset()
    assert granted(places, [threaded], 30) == [AT_A_TIME]


def test_no_thread_is_held_if_the_limit_is_none() -> None:
    assert granted(Places(), [guest(server=Server.THREADS)], limits=Limits(5, 5, 5, 0)) == [0.0]


def test_waits_take_a_share_of_a_process_that_serves_one_at_a_time(clock: Clock) -> None:
    places, began, waited, alone = Places(clock), clock.now, 0.0, guest(server=Server.ALONE)
    while clock.now < began + 100:
        with places.hold(alone, 30, LIMITS) as seconds:
            assert seconds <= AT_A_TIME
            clock.now += seconds
            waited += seconds
        clock.now += 0.1
    assert waited <= AT_A_TIME + 100 * SHARE
    assert waited > 15


def test_a_wait_that_is_too_short_is_refused(clock: Clock) -> None:
    places, alone = Places(clock), guest(server=Server.ALONE)
    with places.hold(alone, 30, LIMITS) as seconds:
        clock.now += seconds
    clock.now += LEAST / 2
    assert granted(places, [alone]) == [0.0]


def test_saved_time_is_limited_to_one_wait(clock: Clock) -> None:
    share = TimeBudget(clock)
    clock.now += 10_000
    assert share.left == AT_A_TIME
    share.spend(0.6)
    assert share.left == pytest.approx(AT_A_TIME - 0.6)


def test_a_forked_process_holds_no_client() -> None:
    places = Places()
    with places.hold(guest(), 10, LIMITS):
        places.reset()
        assert places.held == 0
