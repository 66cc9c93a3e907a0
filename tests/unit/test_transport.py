from __future__ import annotations

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.transport import TRANSPORT_ALIASES, memory, redis, resolve_transport

from broker_django.celery_app import TASK
from workers import transport
from workers.transport import _TrueQueue, install


class Channel(_TrueQueue, memory.Channel):
    """The mixin over a transport that needs no server."""


class Transport(memory.Transport):
    Channel = Channel
    global_state = memory.Transport.global_state


@pytest.fixture
def received():
    """Publishes to a queue of its own exchange; gives (queue it was read from, routing key that was seen)."""
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


def test_a_dispatch_is_told_the_queue_that_it_was_read_from(received):
    assert received(task=TASK) == "emails"


def test_a_message_without_a_task_in_its_headers_is_told_too(received):
    assert received() == "emails"


def test_the_tasks_of_the_project_keep_their_routing_keys(received):
    assert received(task="shop.tasks.send_receipt") == "mail.urgent"


def test_redis_urls_are_served_with_the_transports_once_installed(monkeypatch):
    for scheme in ("redis", "rediss", "sentinel"):
        monkeypatch.setitem(TRANSPORT_ALIASES, scheme, TRANSPORT_ALIASES[scheme])
    install()
    assert resolve_transport("redis") is resolve_transport("rediss") is transport.Transport
    assert resolve_transport("sentinel") is transport.SentinelTransport
    assert issubclass(transport.Transport, redis.Transport)
    assert issubclass(transport.SentinelTransport, redis.SentinelTransport)
    assert issubclass(transport.SentinelTransport.Channel, (_TrueQueue, redis.SentinelChannel))
    assert issubclass(transport.Transport.Channel, _TrueQueue)
