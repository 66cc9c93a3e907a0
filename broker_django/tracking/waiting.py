"""Waiting for a dispatch to change, in a thread or on an event loop.

Whoever waits keeps no database connection and, on an event loop, no thread: the process's one watcher looks.
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
from django.test import utils as test_utils

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
"""Seconds for which a thread keeps its connections: most answers are there by then, and connecting takes time too."""


def wait(dispatch_id: uuid.UUID, seconds: float, wanted: Wanted, *, ledger_only: bool = False) -> Dispatch | None:
    """The dispatch as soon as it is as wanted; None if it is not within so many seconds.

    With `ledger_only` the thread gives up no connection but that to the ledger.
    Raises UnwatchedError if the process has no file or no thread left to wait with.
    """
    if _looks_here() or database.in_transaction():
        return _look_here(dispatch_id, seconds, wanted)
    event = threading.Event()
    waiter = Waiter(dispatch_id, wanted, event.set)
    with watcher.waiting(waiter):
        if not event.wait(min(seconds, QUICK)) and seconds > QUICK:
            _close_connections(ledger_only=ledger_only)
            event.wait(seconds - QUICK)
    return waiter.dispatch


async def async_wait(dispatch_id: uuid.UUID, seconds: float, wanted: Wanted, *, quick: float = 0.0) -> Dispatch | None:
    """`wait` for coroutines. The request keeps its thread, with its connections, for `quick` seconds."""
    if _looks_here() or (_has_thread() and await sync_to_async(database.in_transaction)()):
        return await _async_look_here(dispatch_id, seconds, wanted)
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed by now
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


# Who looks


def _looks_here() -> bool:
    """Whether another thread would see another database: tests have theirs in a transaction, or in memory."""
    return hasattr(test_utils._TestState, "saved_data") or bool(get_app().conf.task_always_eager)


def _look_here(dispatch_id: uuid.UUID, seconds: float, wanted: Wanted) -> Dispatch | None:
    for pause in _pauses(seconds):
        dispatch = ledger.find(dispatch_id)
        if dispatch is not None and wanted(dispatch):
            return dispatch
        time.sleep(pause)
    return None


async def _async_look_here(dispatch_id: uuid.UUID, seconds: float, wanted: Wanted) -> Dispatch | None:
    for pause in _pauses(seconds):
        dispatch = await sync_to_async(ledger.find)(dispatch_id)
        if dispatch is not None and wanted(dispatch):
            return dispatch
        await asyncio.sleep(pause)
    return None


def _pauses(seconds: float) -> Iterator[float]:
    """Growing pauses between looks, so many seconds in all."""
    deadline, step = time.monotonic() + seconds, FIRST_STEP
    while (left := deadline - time.monotonic()) > 0:
        yield min(step, left)
        step = min(step * 1.5, LAST_STEP)


# What is given up

_left: ContextVar[list[Any]] = ContextVar("request_broker.left", default=[])  # noqa: B039 - it is never changed
"""The connections of the thread that the request has given up."""


def _close_connections(*, ledger_only: bool = False) -> list[Any]:
    """Close this thread's database connections, or only that to the ledger, but for those in a transaction.

    Returns those that are closed.
    """
    for connection in connections.all(initialized_only=True):
        if ledger_only and connection.alias != database.alias():
            continue
        if connection.connection and connection.autocommit and not connection.in_atomic_block:
            connection.close()
    return [connection for connection in connections.all(initialized_only=True) if connection.connection is None]


def _threads() -> tuple[Any, Any]:
    """The threads that asgiref keeps for requests, and what it keeps this one's by; None if it shares one.

    asgiref has no public way to it: where it has changed, requests keep their threads.
    """
    context = getattr(SyncToAsync, "thread_sensitive_context", None)
    threads = getattr(SyncToAsync, "context_to_thread_executor", None)
    return threads if threads is not None else {}, context.get(None) if context is not None else None


def _held_by_middleware() -> bool:
    """Whether synchronous middleware around waits in the request's thread for its response."""
    return getattr(AsyncToSync.executors, "current", None) is not None


def _has_thread() -> bool:
    threads, context = _threads()
    return context is None or context in threads or _held_by_middleware()


async def _give_up_thread() -> None:
    """Close the connections of the request's own thread and end it: what is to be run in it later gets another."""
    if not _has_thread():
        return
    closed = await sync_to_async(_close_connections)()
    threads, context = _threads()
    if context is not None and context in threads and not _held_by_middleware():
        threads.pop(context).shutdown(wait=False)
        _left.set(closed)


async def take_up_thread() -> None:
    """Have the request go on, in the thread that it gets, with the closed connections of the one that it had.

    Middleware may have told them something of the request, as which schema its tenant has.
    """
    left = _left.get()
    if left:
        _left.set([])
        await sync_to_async(_adopt)(left)


def _adopt(left: list[Any]) -> None:
    here = {connection.alias for connection in connections.all(initialized_only=True)}
    for connection in left:
        if connection.alias not in here:
            connection._thread_ident = threading.get_ident()
            connections[connection.alias] = connection
