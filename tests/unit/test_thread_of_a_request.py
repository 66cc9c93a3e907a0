"""A request that gives up its thread while it waits goes on with the connections that it had, closed."""

from __future__ import annotations

import asyncio
import threading

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections

from broker_django import waiting


def test_what_middleware_told_a_connection_holds_after_the_wait(monkeypatch) -> None:
    def tell() -> int:
        connections["default"].tenant = "one"
        return threading.get_ident()

    def told() -> tuple[str, int]:
        connections["default"].validate_thread_sharing()
        return getattr(connections["default"], "tenant", "nobody's"), threading.get_ident()

    async def request(*, waits: bool) -> tuple[int, tuple[str, int]]:
        async with ThreadSensitiveContext():
            before = await sync_to_async(tell)()
            if waits:
                await waiting._give_up_thread()
                await waiting.take_up_thread()
            return before, await sync_to_async(told)()

    for waits in (False, True):
        before, (tenant, after) = asyncio.run(request(waits=waits))
        assert tenant == "one"
        assert waits or before == after
