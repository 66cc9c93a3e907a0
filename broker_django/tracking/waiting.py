"""Wait for a dispatch to change, in a thread or on an event loop.

A waiting request keeps no database connection and, on an event loop, no thread. The process's watcher polls for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from django.db import connections
from django.test import utils as test_utils  # knows whether tests run

from broker_django.ledger import ledger
from broker_django.messaging.celery_app import get_app
from broker_django.models import database
from broker_django.tracking.watcher import FIRST_STEP, LAST_STEP, Waiter, watcher

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterator

    from broker_core.dispatches import Dispatch

    Wanted = Callable[[Dispatch], bool]

QUICK = 0.2
"""Seconds for which a waiting thread keeps its connections. Most dispatches are done by then."""


def wait(dispatch_id: uuid.UUID, seconds: float, wanted: Wanted, *, ledger_only: bool = False) -> Dispatch | None:
    """Returns the dispatch as soon as `wanted` returns True for it; None if it does not in time.

    With `ledger_only` the thread closes only its connection to the ledger. Raises UnwatchedError if the process can
    open no more files or threads.
    """
    if _polls_here() or ledger.in_transaction():
        return _poll(dispatch_id, seconds, wanted)
    event = threading.Event()
    waiter = Waiter(dispatch_id, wanted, event.set)
    with watcher.waiting(waiter):
        if not event.wait(min(seconds, QUICK)) and seconds > QUICK:
            _close_connections(ledger_only=ledger_only)
            event.wait(seconds - QUICK)
    return waiter.dispatch


async def async_wait(dispatch_id: uuid.UUID, seconds: float, wanted: Wanted, *, quick: float = 0.0) -> Dispatch | None:
    """The same for coroutines. The request keeps its thread and its connections for `quick` seconds."""
    if _polls_here() or (_has_thread() and await sync_to_async(ledger.in_transaction)()):
        return await _async_poll(dispatch_id, seconds, wanted)
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(event.set)

    waiter = Waiter(dispatch_id, wanted, wake)
    with watcher.waiting(waiter):
        if not await _is_set(event, min(seconds, quick)) and seconds > quick:
            await _give_up_thread()
            await _is_set(event, seconds - quick)
    return waiter.dispatch


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


# Polling without the watcher


def _polls_here() -> bool:
    """Whether another thread would see other data: tests use a transaction, or a database in memory."""
    return hasattr(test_utils._TestState, "saved_data") or bool(get_app().conf.task_always_eager)


def _poll(dispatch_id: uuid.UUID, seconds: float, wanted: Wanted) -> Dispatch | None:
    for pause in _pauses(seconds):
        dispatch = ledger.find(dispatch_id)
        if dispatch is not None and wanted(dispatch):
            return dispatch
        time.sleep(pause)
    return None


async def _async_poll(dispatch_id: uuid.UUID, seconds: float, wanted: Wanted) -> Dispatch | None:
    for pause in _pauses(seconds):
        dispatch = await sync_to_async(ledger.find)(dispatch_id)
        if dispatch is not None and wanted(dispatch):
            return dispatch
        await asyncio.sleep(pause)
    return None


def _pauses(seconds: float) -> Iterator[float]:
    """Yields growing pauses between polls, this many seconds in total."""
    deadline, step = time.monotonic() + seconds, FIRST_STEP
    while (left := deadline - time.monotonic()) > 0:
        yield min(step, left)
        step = min(step * 1.5, LAST_STEP)


# Threads and connections during a wait

_closed: ContextVar[list[Any]] = ContextVar("request_broker.closed", default=[])  # noqa: B039 - never changed
"""The closed connections of the thread that the request has given up."""


def _close_connections(*, ledger_only: bool = False) -> list[Any]:
    """Close this thread's database connections (only that to the ledger, if asked), except those in a transaction.

    Returns all closed connections.
    """
    for connection in connections.all(initialized_only=True):
        if ledger_only and connection.alias != database.alias():
            continue
        if connection.connection and connection.autocommit and not connection.in_atomic_block:
            connection.close()
    return [connection for connection in connections.all(initialized_only=True) if connection.connection is None]


def _threads() -> tuple[Any, Any]:
    """Returns asgiref's threads by context, and this request's context; None if requests share one thread.

    Both are private. If asgiref changes them, requests keep their threads.
    """
    context = getattr(SyncToAsync, "thread_sensitive_context", None)
    threads = getattr(SyncToAsync, "context_to_thread_executor", None)
    return threads if threads is not None else {}, context.get(None) if context is not None else None


def _held_by_middleware() -> bool:
    """Whether synchronous middleware waits in the request's thread for the response."""
    return getattr(AsyncToSync.executors, "current", None) is not None


def _has_thread() -> bool:
    threads, context = _threads()
    return context is None or context in threads or _held_by_middleware()


async def _give_up_thread() -> None:
    """Close the connections of the request's thread and end it. Later synchronous code runs in another thread."""
    if not _has_thread():
        return
    closed = await sync_to_async(_close_connections)()
    threads, context = _threads()
    if context is not None and context in threads and not _held_by_middleware():
        threads.pop(context).shutdown(wait=False)
        _closed.set(closed)


async def restore_connections() -> None:
    """Give the request's new thread the closed connections of the old one.

    Middleware may have set attributes on them, such as the schema of the tenant.
    """
    closed = _closed.get()
    if closed:
        _closed.set([])
        await sync_to_async(_adopt)(closed)


def _adopt(closed: list[Any]) -> None:
    present = {connection.alias for connection in connections.all(initialized_only=True)}
    for connection in closed:
        if connection.alias not in present:
            connection._thread_ident = threading.get_ident()
            connections[connection.alias] = connection
