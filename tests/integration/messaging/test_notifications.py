"""Announcements are hints: a Redis that does not answer costs little."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from django.test import override_settings

from broker_django.messaging import notifications
from tests import servers
from workers.config import configure

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("own_app")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """The server that announcements go to. It never answers."""
    with servers.silent() as listener:
        listener.setblocking(False)
        app = Celery("project", set_as_current=False)
        app.conf.broker_url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        configure(app)
        yield listener
        app.close()


def connections(server: socket.socket) -> int:
    """How many clients have connected since the last call."""
    number = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return number
        number += 1


def test_one_failed_announcement_silences_the_next_ones(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(REQUEST_BROKER={"PUBLISH_TIMEOUT": 0.05}):
        for _ in range(50):
            notifications.announce(uuid.uuid4())
        once = connections(server)
        assert sum("could not be announced" in record.message for record in caplog.records) == 1
        monkeypatch.setattr(notifications, "SILENCE", 0.0)
        notifications._silent_until.clear()
        notifications.announce(uuid.uuid4())
        assert connections(server) == once, "it tries again as often as the first time"
    assert 1 <= once < 10
