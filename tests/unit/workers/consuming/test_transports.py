from __future__ import annotations

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.transport import TRANSPORT_ALIASES, memory, resolve_transport

from broker_django.messaging.celery_app import TASK
from workers.config import WORKER_TRANSPORTS
from workers.consuming import rabbitmq, redis
from workers.consuming.redis import _SetsQueue


class Channel(_SetsQueue, memory.Channel):
    """The mixin with a transport that needs no server."""


class Transport(memory.Transport):
    Channel = Channel
    global_state = memory.Transport.global_state


@pytest.fixture
def received():
    """Publishes to a queue with its own exchange. Returns the queue it was read from, and its routing key."""
    seen = []
    with Connection(transport=Transport) as connection:
        exchange = Exchange("project", type="topic")
        queue = Queue("emails", exchange, routing_key="mail.#")

        def send(**headers):
            Producer(connection).publish(
                {}, exchange=exchange, routing_key="mail.urgent", headers=headers, declare=[queue]
            )
            with Consumer(
                connection, [queue], callbacks=[lambda _body, message: seen.append(message) or message.ack()]
            ):
                connection.drain_events(timeout=1)
            return seen[-1].delivery_info["routing_key"]

        yield send


def test_a_dispatch_has_the_queue_that_it_was_read_from(received):
    assert received(task=TASK) == "emails"


def test_a_message_without_a_task_header_has_it_too(received):
    assert received() == "emails"


def test_the_tasks_of_the_project_keep_their_routing_keys(received):
    assert received(task="shop.tasks.send_receipt") == "mail.urgent"


def test_each_url_is_served_by_its_own_transport(monkeypatch):
    for scheme, path in WORKER_TRANSPORTS.items():
        theirs = resolve_transport(scheme)
        monkeypatch.setitem(TRANSPORT_ALIASES, scheme, path)
        ours = resolve_transport(scheme)
        assert issubclass(ours, theirs)
        assert issubclass(ours, (redis.Transport, redis.SentinelTransport, rabbitmq.Transport, rabbitmq.SSLTransport))
