from __future__ import annotations

import decimal
import os
import threading

import pytest

from workers import isolation
from workers.isolation import isolated


@pytest.fixture(autouse=True)
def fresh():
    isolation._made.clear()
    yield
    isolation._made.clear()


def test_what_the_process_was_started_with_is_there_for_each_replay():
    with decimal.localcontext() as started:
        started.prec = 50

        def change():
            found = decimal.getcontext().prec
            decimal.getcontext().prec = 3
            return found

        assert [isolated(change), isolated(change), decimal.getcontext().prec] == [50, 50, 50]


def test_a_thread_that_ends_takes_nothing_from_one_that_still_runs(monkeypatch):
    inside, done = threading.Event(), threading.Event()
    seen = {}

    def long():
        os.environ["OF_A_LIBRARY"] = "1"
        inside.set()
        assert done.wait(30)
        seen["still there"] = "OF_A_LIBRARY" in os.environ

    thread = threading.Thread(target=isolated, args=[long])
    thread.start()
    assert inside.wait(30)
    isolated(lambda: None)
    done.set()
    thread.join()
    assert seen == {"still there": True}
    assert "OF_A_LIBRARY" not in os.environ
