"""Messages are JSON, and a worker reads nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from celery import Celery
from kombu.exceptions import ContentDisallowed
from kombu.message import Message
from kombu.serialization import loads, prepare_accept_content

import broker_core
import broker_django
import workers
from broker_django.conf import conf
from broker_django.messaging.publishing import publish
from broker_django.models import DispatchRecord
from tests.rows import as_request
from workers.config import configure

pytestmark = pytest.mark.usefixtures("own_app")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


@pytest.fixture
def app():
    app = Celery("project", broker="memory://", set_as_current=False)
    return configure(app)


def test_the_message_of_a_dispatch_is_json_with_any_serializer_of_the_project(app):
    app.conf.update(task_serializer="pickle")
    record = DispatchRecord(queue="payment", method="POST", route="/", sealed=b"sealed")
    assert publish(as_request(record), conf.queues["payment"])
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("payment").get(block=False)
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/x-yaml", "nonsense/none"])
def test_a_worker_reads_nothing_but_json(app, content_type):
    accepted = prepare_accept_content(app.conf.accept_content)
    body = pickle.dumps(Bomb())
    with pytest.raises(ContentDisallowed):
        Message(body, content_type=content_type, content_encoding="binary", accept=accepted).decode()
    with pytest.raises(ContentDisallowed):
        loads(body, content_type, "binary", accept=accepted)


def test_stored_results_are_json_too(app):
    assert (app.conf.result_serializer, app.conf.result_accept_content) == ("json", None)


@pytest.mark.parametrize("room", [broker_core, broker_django, workers])
def test_nothing_here_pickles(room):
    for module in Path(room.__file__).parent.rglob("*.py"):
        text = module.read_text()
        assert "import pickle" not in text, module
        assert "import marshal" not in text, module
