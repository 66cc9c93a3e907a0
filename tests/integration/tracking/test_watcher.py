"""The one thread of a process that polls for all waiting clients."""

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
    """A separate watcher, whose thread and connection end when no client waits."""
    yield Watcher()
    wait_until(lambda: not threads())


def waiting(**facts: Any) -> DispatchRecord:
    known = {"queue": "bulk", "method": "GET", "path": "/x/", "route": "/x/", "sealed": b"", **facts}
    return DispatchRecord.objects.create(accepted_at=timezone.now(), **known)


def waits(record: DispatchRecord, state: str) -> tuple[Waiter, threading.Event]:
    """Returns a waiter for this state, and the event that wakes it."""
    woken = threading.Event()
    return Waiter(record.pk, lambda seen: seen.state == state, woken.set), woken


def change(record: DispatchRecord, **values: Any) -> None:
    DispatchRecord.objects.filter(pk=record.pk).update(**values)


def test_one_thread_wakes_each_client_for_its_own_dispatch(watcher: Watcher) -> None:
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


def test_the_watcher_does_not_block_writes_to_a_database_in_memory(
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


def test_after_the_thread_has_ended_the_next_client_starts_another(watcher: Watcher) -> None:
    for _ in range(2):
        record = waiting()
        waiter, woken = waits(record, "running")
        with watcher.waiting(waiter):
            change(record, state="running")
            assert woken.wait(PATIENCE)
        wait_until(lambda: not threads())


def test_a_dispatch_that_expires_during_the_wait_is_expired(watcher: Watcher) -> None:
    record = waiting(expires_at=timezone.now())
    waiter, woken = waits(record, "expired")
    with watcher.waiting(waiter):
        assert woken.wait(PATIENCE)


def test_clients_are_woken_after_an_outage_of_the_ledger(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_failed_start_of_the_thread_leaves_nothing_open(
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


def test_a_forked_process_starts_without_clients(watcher: Watcher) -> None:
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
