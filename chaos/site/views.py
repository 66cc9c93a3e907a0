from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt

from chaos import leftovers, poison
from chaos.journal import Phase, write_for
from tests.site.models import Execution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest


@contextlib.contextmanager
def recorded(request: HttpRequest, release: str = "") -> Iterator[None]:
    """Record that the view begins, what it finds of earlier views, and how it ends."""
    write_for(request, Phase.BEGIN, release)
    try:
        for found in leftovers.find():
            write_for(request, Phase.FOUND, found)
        yield
    except BaseException as error:
        write_for(request, Phase.END, type(error).__name__)
        raise
    write_for(request, Phase.END)


def add_row(request: HttpRequest) -> None:
    """Write a row for this run. Record that it is committed, if no transaction is open."""
    broker = request.broker
    Execution.objects.create(dispatch=str(broker.id or ""), worker=f"attempt {broker.attempt}, process {os.getpid()}")
    if not leftovers.in_transaction():
        write_for(request, Phase.COMMITTED)


def _work(request: HttpRequest, milliseconds: int, release: str = "") -> HttpResponse:
    with recorded(request, release):
        add_row(request)
        time.sleep(milliseconds / 1000)
        return HttpResponse("done")


@csrf_exempt
def work(request: HttpRequest, milliseconds: int) -> HttpResponse:
    return _work(request, milliseconds)


@csrf_exempt
async def async_work(request: HttpRequest, milliseconds: int) -> HttpResponse:
    """In a coroutine's own context; the database is used from the thread that Django provides for that."""
    return await sync_to_async(_work)(request, milliseconds)


@csrf_exempt
def work_of_old(request: HttpRequest, milliseconds: int) -> HttpResponse:
    return _work(request, milliseconds, "old")


@csrf_exempt
def work_of_new(request: HttpRequest, milliseconds: int) -> HttpResponse:
    return _work(request, milliseconds, "new")


@csrf_exempt
def poisonous(request: HttpRequest, name: str) -> HttpResponse:
    with recorded(request):
        add_row(request)
        poison.act(name, request.broker.attempt)
        return HttpResponse("poisoned")


@csrf_exempt
async def async_poisonous(request: HttpRequest, name: str) -> HttpResponse:
    """Changes its context in the coroutine, and everything else as a synchronous view does."""
    if name == "activate":
        await sync_to_async(_begin_poisonous)(request)
        poison.activate()
        await sync_to_async(write_for)(request, Phase.END)
        return HttpResponse("poisoned")
    return await sync_to_async(poisonous)(request, name)


def _begin_poisonous(request: HttpRequest) -> None:
    write_for(request, Phase.BEGIN)
    for found in leftovers.find():
        write_for(request, Phase.FOUND, found)
    add_row(request)
