"""Finds a TCP port to listen on."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

NEIGHBOURS = 20
TRIES = 20
NEVER_OUTGOING = range(20_000, 32_000)
"""Linux uses ports from 32,768 for outgoing connections, other systems from 49,152 (RFC 6335, section 6)."""


@contextmanager
def reserved_port(preferred: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Yields the preferred port, or the next free one above it, or any free port.

    Other processes that use this function get another port, even before anything listens on this one.
    """
    for port in range(preferred, min(preferred + NEIGHBOURS, 65536)):
        with _reservation(port) as is_ours:
            if is_ours and _can_listen(host, port):
                yield port
                return
    yield any_port(host)


def free_port(preferred: int, host: str = "127.0.0.1") -> int:
    """Like `reserved_port`, for a program that listens at once and tries another port if that fails."""
    with reserved_port(preferred, host) as port:
        return port


def any_port(host: str = "127.0.0.1") -> int:
    """Returns a free port that outgoing connections do not use, or else one that the kernel chooses."""
    for _try in range(TRIES):
        port = secrets.choice(NEVER_OUTGOING)
        if _can_listen(host, port):
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _reservation(port: int) -> Iterator[bool]:
    """Reserve the port while the context lasts. Yields False if another process of this user has reserved it."""
    if sys.platform == "win32":
        yield True
        return
    path = Path(tempfile.gettempdir()) / f"request-broker-{os.getuid()}-{port}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _can_listen(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a connection that is still closing does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
