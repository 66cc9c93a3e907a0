"""Middleware that records which dispatches a web process accepted."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware

from chaos.journal import Line, Phase, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest


@sync_and_async_middleware
def record_acceptances(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    if not iscoroutinefunction(get_response):
        return lambda request: _recorded(get_response(request))

    async def middleware(request: HttpRequest) -> Any:
        return _recorded(await get_response(request))

    return middleware


def _recorded(response: Any) -> Any:
    if response.status_code == 202:
        write(Line(Phase.ACCEPTED, json.loads(response.content)["id"], 0, os.getpid(), os.environ["CHAOS_RELEASE"]))
    return response
