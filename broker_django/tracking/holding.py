"""Limit how many clients this process holds, and for how long, as the settings say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from django.core.handlers.asgi import ASGIRequest

from broker_core.client_limits import Guest, Limits, Places, Server
from broker_django.conf import conf
from broker_django.identity.credentials import shows_again
from broker_django.identity.owners import is_unidentified

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from django.http import HttpRequest

    from broker_core.dispatches import Dispatch

places = Places()
os.register_at_fork(after_in_child=places.reset)


def limits() -> Limits:
    return Limits(conf.MAX_HELD, conf.MAX_HELD_PER_CLIENT, conf.MAX_HELD_PER_DISPATCH, conf.MAX_HELD_THREADS)


def server_of(request: HttpRequest) -> Server:
    """Returns what serves the request. WSGI servers set `wsgi.multithread` (PEP 3333)."""
    if isinstance(request, ASGIRequest):
        return Server.LOOP
    return Server.THREADS if request.META.get("wsgi.multithread") else Server.ALONE


def guest(request: HttpRequest, dispatch: Dispatch) -> Guest:
    """Returns the client that waits: the dispatch's user, or the credential it was accepted with, or an IP address.

    An invented session cookie does not count as a new client. Users of different sites may have equal keys.
    """
    client = f"address {request.META.get('REMOTE_ADDR', '')}"
    if dispatch.user and not is_unidentified(dispatch.user):
        client = f"user {dispatch.user} of {dispatch.tenant!r} on {dispatch.host!r}"
    elif dispatch.credential and shows_again(request, dispatch.credential):
        client = dispatch.credential
    return Guest(client, dispatch.id, server_of(request))


def hold(guest: Guest, seconds: float) -> AbstractContextManager[float]:
    """Hold the client while the block runs. Yields the seconds that it may be held, or 0 if it may not."""
    return places.hold(guest, seconds, limits())
