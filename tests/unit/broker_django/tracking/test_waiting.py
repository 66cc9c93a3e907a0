"""A waiting request gives up its thread, and gets its closed connections back afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import connections

from broker_django.tracking import waiting
from tests.settings import database

PATIENCE = 20


@pytest.fixture(autouse=True)
def spare(tmp_path, monkeypatch, django_db_blocker):
    """A separate database in a file, because Django keeps connections to one in memory open."""
    monkeypatch.setitem(connections.settings, "spare", {**connections.settings["default"]})
    connections.settings["spare"].update(database({"DATABASE_PATH": str(tmp_path / "spare")}))
    with django_db_blocker.unblock():
        yield


def connect():
    """As middleware that sets an attribute of the connection for the request."""
    connection = connections["spare"]
    connection.ensure_connection()
    connection.tenant = "one"
    return threading.current_thread(), connection


def found():
    connection = connections["spare"]
    connection.validate_thread_sharing()
    return threading.current_thread(), connection


def close():
    connections["spare"].close()
    del connections["spare"]


@contextlib.contextmanager
def another_thread():
    """A new thread, because Python reuses the identifier of an ended thread."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def in_a_thread_of_its_own(request):
    async with ThreadSensitiveContext():
        try:
            return await request()
        finally:
            await sync_to_async(close)()


def test_a_waiting_request_ends_its_thread_and_keeps_its_connections_in_the_next():
    async def request():
        thread, connection = await sync_to_async(connect)()
        executors = list(SyncToAsync.context_to_thread_executor.values())  # one that nobody has any more would end, too
        await waiting._give_up_thread()
        await asyncio.to_thread(thread.join, PATIENCE)
        assert (thread.is_alive(), connection.connection, len(executors)) == (False, None, 1)
        with another_thread():
            await waiting.restore_connections()
            after, same = await sync_to_async(found)()
        assert (after is thread, same is connection, same.tenant) == (False, True, "one")
        await sync_to_async(same.ensure_connection)()

    asyncio.run(in_a_thread_of_its_own(request))


def test_restored_connections_are_not_restored_again():
    async def request():
        _thread, connection = await sync_to_async(connect)()
        await waiting._give_up_thread()
        await waiting.restore_connections()
        await sync_to_async(close)()
        await waiting.restore_connections()
        assert (await sync_to_async(found)())[1] is not connection

    asyncio.run(in_a_thread_of_its_own(request))


def test_a_request_that_does_not_wait_keeps_thread_and_connection():
    async def request():
        thread, connection = await sync_to_async(connect)()
        await waiting.restore_connections()
        assert await sync_to_async(found)() == (thread, connection)
        assert connection.connection is not None

    asyncio.run(in_a_thread_of_its_own(request))


def test_a_connection_of_the_new_thread_is_kept():
    async def request():
        await sync_to_async(connect)()
        await waiting._give_up_thread()
        _thread, connection = await sync_to_async(found)()
        await waiting.restore_connections()
        assert (await sync_to_async(found)())[1] is connection

    asyncio.run(in_a_thread_of_its_own(request))


def test_a_request_without_a_thread_gets_none():
    begun = set()

    async def request():
        async with ThreadSensitiveContext():
            await waiting._give_up_thread()

    threading.setprofile(lambda *_: begun.add(threading.current_thread()))
    try:
        asyncio.run(request())
    finally:
        threading.setprofile(None)
    assert not begun


def test_a_thread_in_which_middleware_waits_is_kept():
    async def view(connection):
        await waiting._give_up_thread()
        assert connection.connection is None
        await waiting.restore_connections()
        return await sync_to_async(found)()

    def middleware():
        thread, connection = connect()
        assert async_to_sync(view)(connection) == (thread, connection)
        return thread, connection

    async def request():
        assert await sync_to_async(middleware)() == await sync_to_async(found)()

    asyncio.run(in_a_thread_of_its_own(request))


def test_a_thread_that_all_requests_share_is_kept():
    async def request():
        thread, connection = await sync_to_async(connect)()
        await waiting._give_up_thread()
        await waiting.restore_connections()
        assert await sync_to_async(found)() == (thread, connection)
        assert connection.connection is None
        await sync_to_async(close)()

    asyncio.run(request())
