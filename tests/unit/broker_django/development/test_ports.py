from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker_django.development import ports
from broker_django.development.ports import any_port, free_port, reserved_port

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOOK = "import sys\nfrom broker_django.development.ports import free_port\nprint(free_port(int(sys.argv[1])))"


def test_the_preferred_port_is_used_if_it_is_free():
    port = any_port()
    assert free_port(port) == port


def test_the_next_free_port_is_used_instead_of_one_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert free_port(taken) > 0
        assert free_port(taken) != taken


def test_a_port_that_only_held_a_connection_is_free_again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address):
            accepted, _ = server.accept()
            accepted.close()
    assert free_port(address[1]) == address[1]


@pytest.mark.skipif(not OUTGOING.exists(), reason="only Linux says which ports outgoing connections are given")
def test_no_outgoing_connection_takes_a_port_before_a_server_listens():
    lowest, _highest = map(int, OUTGOING.read_text().split())
    assert max(any_port() for _ in range(20)) < lowest


def test_if_those_ports_are_in_use_the_kernel_picks_one(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "NEVER_OUTGOING", [taken])
        assert any_port() != taken


def test_a_reserved_port_is_exclusive_until_it_is_released():
    with reserved_port(any_port()) as port:
        looked = subprocess.run([sys.executable, "-c", LOOK, str(port)], capture_output=True, text=True, check=True)
        assert int(looked.stdout) != port
        assert free_port(port) != port
        socket.create_server(("127.0.0.1", port)).close()
    assert free_port(port) == port


def test_a_reserved_port_is_free_after_its_program_has_ended():
    port = any_port()
    lines = ("import os", "from broker_django.development.ports import reserved_port")
    program = "\n".join((*lines, f"reserved_port({port}).__enter__()", "os._exit(1)"))
    subprocess.run([sys.executable, "-c", program], check=False)
    assert free_port(port) == port
