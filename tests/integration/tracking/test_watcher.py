"""The one thread that looks for everybody in a process who waits."""

from __future__ import annotations

import errno
import gc
import threading
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from broker_django.ledger import ledger
from broker_django.models import DispatchRecord
from broker_django.tracking.watcher import UnwatchedError, Waiter, Watcher
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE = 20


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "request-broker-watcher"]


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    """One of the test's own, whose thread ends, with its connection, once nobody waits."""
    yield Watcher()
    wait_until(lambda: not threads())


def waiting(**facts: Any) -> DispatchRecord:
    known = {"queue": "bulk", "method": "GET", "path": "/x/", "route": "/x/", "sealed": b"", **facts}
    return DispatchRecord.objects.create(accepted_at=timezone.now(), **known)


def waits(record: DispatchRecord, state: str) -> tuple[Waiter, threading.Event]:
    """Somebody who waits for the dispatch to have this state."""
    woken = threading.Event()
    return Waiter(record.pk, lambda seen: seen.state == state, woken.set), woken


def change(record: DispatchRecord, **values: Any) -> None:
    DispatchRecord.objects.filter(pk=record.pk).update(**values)


def test_everybody_is_woken_by_what_they_wait_for_and_by_one_thread(watcher: Watcher) -> None:
    record, other = waiting(), waiting()
    running, done, elsewhere = waits(record, "running"), waits(record, "succeeded"), waits(other, "running")
    with ExitStack() as held:
        for waiter, _woken in (running, done, elsewhere):
            held.enter_context(watcher.waiting(waiter))
        change(record, state="running")
        assert running[1].wait(PATIENCE)
        assert running[0].dispatch is not None
        assert running[0].dispatch.state == "running"
        change(record, state="succeeded")
        assert done[1].wait(PATIENCE)
        assert len(threads()) == 1
        assert not elsewhere[1].is_set()


def test_a_writer_of_a_database_in_memory_does_not_fail_because_the_watcher_reads(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, reading, written = ledger.find_all, threading.Event(), threading.Event()

    def find_all(ids: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id FROM broker_django_dispatchrecord")
            assert cursor.fetchone()
            reading.set()
            assert written.wait(PATIENCE)
        return find(ids)

    record, _other = waiting(), waiting()
    waiter, woken = waits(record, "running")
    monkeypatch.setattr(ledger, "find_all", find_all)
    with watcher.waiting(waiter):
        assert reading.wait(PATIENCE)
        change(record, state="running")
        written.set()
        assert woken.wait(PATIENCE)


def test_whoever_comes_after_the_thread_has_ended_is_woken_by_another(watcher: Watcher) -> None:
    for _ in range(2):
        record = waiting()
        waiter, woken = waits(record, "running")
        with watcher.waiting(waiter):
            change(record, state="running")
            assert woken.wait(PATIENCE)
        wait_until(lambda: not threads())


def test_what_expires_while_it_is_waited_for_has_expired(watcher: Watcher) -> None:
    record = waiting(expires_at=timezone.now())
    waiter, woken = waits(record, "expired")
    with watcher.waiting(waiter):
        assert woken.wait(PATIENCE)


def test_a_ledger_that_does_not_answer_for_a_while_leaves_nobody_waiting(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, find, errors = waiting(), ledger.find_all, iter([OperationalError("away"), RuntimeError("odd")])

    def find_all(ids: Any) -> Any:
        for error in errors:
            raise error
        return find(ids)

    monkeypatch.setattr(ledger, "find_all", find_all)
    waiter, woken = waits(record, "running")
    with watcher.waiting(waiter):
        change(record, state="running")
        assert woken.wait(PATIENCE)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("socket.socketpair", OSError(errno.EMFILE, "Too many open files")),
        ("selectors.DefaultSelector", OSError(errno.EMFILE, "Too many open files")),
        ("threading.Thread.start", RuntimeError("can't start new thread")),
    ],
)
def test_who_cannot_be_watched_leaves_nothing_behind(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def fail(*_args: object) -> Any:
        raise error

    record = waiting()
    waiter, woken = waits(record, "running")
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)  # of a socket that nobody closed
        patch.setattr(where, fail)
        with pytest.raises(UnwatchedError), watcher.waiting(waiter):
            pass
        gc.collect()
    assert not watcher.ids()
    with watcher.waiting(waiter):
        change(record, state="running")
        assert woken.wait(PATIENCE)


def test_a_forked_process_has_none_of_its_parents_clients(watcher: Watcher) -> None:
    record = waiting()
    waiter, woken = waits(record, "running")
    with watcher.waiting(waiter):
        watcher.reset()
        assert not watcher.ids()
        again, woken_too = waits(record, "running")
        with watcher.waiting(again):
            change(record, state="running")
            assert woken_too.wait(PATIENCE)
    assert not woken.is_set()
