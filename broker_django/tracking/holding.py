"""The clients that this process holds: how many, and for how long, the settings say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from django.core.handlers.asgi import ASGIRequest

from broker_core.client_limits import Guest, Limits, Places, Server
from broker_django.conf import conf
from broker_django.identity.credentials import shows_again
from broker_django.identity.owners import is_untold

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from django.http import HttpRequest

    from broker_core.dispatches import Dispatch

places = Places()
os.register_at_fork(after_in_child=places.reset)


def limits() -> Limits:
    return Limits(conf.MAX_HELD, conf.MAX_HELD_PER_CLIENT, conf.MAX_HELD_PER_DISPATCH, conf.MAX_HELD_THREADS)


def server_of(request: HttpRequest) -> Server:
    """What serves the request. PEP 3333 has every WSGI server say whether it does in several threads."""
    if isinstance(request, ASGIRequest):
        return Server.LOOP
    return Server.THREADS if request.META.get("wsgi.multithread") else Server.ALONE


def guest(request: HttpRequest, dispatch: Dispatch) -> Guest:
    """The client of an owned dispatch: its user, or the credential that it was accepted with, or else an address.

    A made-up session cookie makes no new client. Users of several sites may have equal keys.
    """
    client = f"address {request.META.get('REMOTE_ADDR', '')}"
    if dispatch.user and not is_untold(dispatch.user):
        client = f"user {dispatch.user} of {dispatch.tenant!r} on {dispatch.host!r}"
    elif dispatch.credential and shows_again(request, dispatch.credential):
        client = dispatch.credential
    return Guest(client, dispatch.id, server_of(request))


def hold(guest: Guest, seconds: float) -> AbstractContextManager[float]:
    """Hold the client while the context lasts; it yields the seconds that it may last, 0 for not at all."""
    return places.hold(guest, seconds, limits())
