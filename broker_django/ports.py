"""Finding a TCP port to listen on."""

from __future__ import annotations

import socket

NEIGHBOURS = 20


def free_port(preferred: int, host: str = "127.0.0.1") -> int:
    """The preferred port, or the next free one above it, or any."""
    for port in range(preferred, min(preferred + NEIGHBOURS, 65536)):
        if _can_listen(host, port):
            return port
    return any_port(host)


def any_port(host: str = "127.0.0.1") -> int:
    """A port that the kernel picks."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _can_listen(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a connection that is still closing does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
