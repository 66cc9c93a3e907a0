from __future__ import annotations

import socket

from broker_django.ports import any_port, free_port


def test_the_preferred_port_is_taken_when_it_is_free():
    port = any_port()
    assert free_port(port) == port


def test_the_next_free_port_is_taken_instead_of_one_in_use():
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
