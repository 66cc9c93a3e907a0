"""What a worker's transports read from a real message broker. The tests set which tasks run, without a worker."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery.worker import state
from kombu import Connection, Consumer, Exchange, Producer, Queue

from broker_core.policies import QueuePolicy
from broker_core.pools import plan_for
from tests.acceptance.conftest import _purge
from workers.config import WORKER_TRANSPORTS
from workers.consuming.slots import pools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import MessageBroker

QUIET = 1.5
"""Seconds after which no further message arrives: Redis is polled every second."""


class Reader:
    """A consumer of some queues, like the main process of a worker."""

    def __init__(self, url: str, connection: Connection, *names: str) -> None:
        self.queues = [Queue(name, Exchange(name), routing_key=name) for name in names]
        self.consumer = Consumer(connection, self.queues, on_message=self._take, prefetch_count=100)
        self.tasks: list[Any] = []
        self._url, self._connection = url, connection

    def _take(self, message: Any) -> None:
        request = SimpleRequest(message=message, task=SimpleNamespace(acks_late=True))
        self.tasks.append(request)
        state.reserved_requests.add(request)

    def send(self, name: str, number: int) -> None:
        with Connection(self._url) as connection:
            [queue] = [queue for queue in self.queues if queue.name == name]
            for each in range(number):
                Producer(connection).publish({"n": each}, exchange=queue.exchange, routing_key=name, declare=[queue])

    def begin(self) -> None:
        """Wait for a message, but not until Redis answers."""
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=0.1)

    def read(self) -> Counter[str]:
        """Returns how many messages of each queue are held, when no more arrive."""
        while True:
            try:
                self._connection.drain_events(timeout=QUIET)
            except TimeoutError:
                return Counter(request.message.delivery_info["broker_queue"] for request in self.tasks)

    def end(self, name: str, number: int) -> None:
        """End this many tasks of the queue."""
        ended = [task for task in self.tasks if task.message.delivery_info["broker_queue"] == name][:number]
        for task in ended:
            self.tasks.remove(task)
            state.reserved_requests.discard(task)
            task.message.ack()

    def postpone(self, name: str) -> None:
        """Treat the held tasks as if they had a later ETA."""
        for task in self.tasks:
            if task.message.delivery_info["broker_queue"] == name:
                state.reserved_requests.discard(task)


class SimpleRequest(SimpleNamespace):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


@pytest.fixture
def reader(message_broker: MessageBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make a reader with a connection of its own, for a worker with a plan."""
    _purge(message_broker.unattended_url)
    scheme = message_broker.unattended_url.partition(":")[0]
    monkeypatch.setattr(pools, "plan", None)
    with contextlib.ExitStack() as connections:

        def make(*names: str) -> Reader:
            connection = Connection(message_broker.unattended_url, transport=WORKER_TRANSPORTS[scheme])
            return Reader(message_broker.unattended_url, connections.enter_context(connection), *names)

        yield make
    state.reserved_requests.clear()
    with Connection(message_broker.unattended_url) as connection:
        for name in ("eu", "us", "payment", "bulk", "project"):
            connection.default_channel.queue_delete(name)


def planned(processes: int, *, ordered: bool, factors: dict[str, float] | None = None, **entries: Any) -> None:
    policies = {name: QueuePolicy.from_mapping(name, entry) for name, entry in entries.items()}
    pools.plan = plan_for(policies, factors or {}, processes, ordered=ordered)


@pytest.fixture
def rabbitmq(message_broker: MessageBroker) -> None:
    if message_broker.is_redis:
        pytest.skip("the message broker is no RabbitMQ")


def test_rabbitmq_hands_out_as_many_as_a_queue_has_processes(rabbitmq: None, reader: Any) -> None:
    planned(4, ordered=False, eu={"weight": 3}, us={})
    reading = reader("eu", "project", "us")
    for name in ("eu", "us", "project"):
        reading.send(name, 9)
    reading.consumer.consume()
    assert reading.read() == {"eu": 3, "us": 1, "project": 4}


def test_rabbitmq_follows_a_plan_and_counts_running_tasks(rabbitmq: None, reader: Any) -> None:
    planned(4, ordered=False, eu={"weight": 3}, us={})
    reading = reader("eu", "us")
    channel = reading.consumer.channel
    for name in ("eu", "us"):
        reading.send(name, 9)
    reading.consumer.consume()
    assert reading.read() == {"eu": 3, "us": 1}
    planned(4, ordered=False, eu={}, us={"weight": 3})
    channel.follow_limits(reading.consumer, reading.queues)
    assert reading.read() == {"eu": 3, "us": 3}
    reading.end("eu", 2)
    channel.follow_limits(reading.consumer, reading.queues)
    assert reading.read() == {"eu": 1, "us": 3}
    reading.end("eu", 1)
    channel.follow_limits(reading.consumer, reading.queues)
    assert reading.read() == {"eu": 1, "us": 3}


def test_a_queue_that_is_consumed_again_on_rabbitmq_has_the_limit_that_it_had(rabbitmq: None, reader: Any) -> None:
    planned(4, ordered=False, eu={"weight": 3}, us={})
    reading = reader("eu", "us")
    [eu, us] = reading.queues
    reading.send("us", 9)
    reading.consumer.consume()
    assert reading.read() == {"us": 1}
    reading.consumer.cancel_by_queue("us")
    reading.consumer.add_queue(us)
    reading.consumer.consume()  # while one is held, so none is left
    reading.consumer.channel.follow_limits(reading.consumer, [eu, us])
    reading.end("us", 9)
    reading.consumer.channel.follow_limits(reading.consumer, [eu, us])
    assert reading.read() == {"us": 1}


def test_tasks_with_a_later_eta_take_no_process_on_rabbitmq(rabbitmq: None, reader: Any) -> None:
    planned(4, ordered=False, eu={"weight": 3}, us={})
    reading = reader("eu", "us")
    reading.send("us", 9)
    reading.consumer.consume()
    assert reading.read() == {"us": 1}
    reading.postpone("us")
    reading.consumer.channel.follow_limits(reading.consumer, reading.queues)
    assert reading.read() == {"us": 2}


def filled(reading: Reader) -> Reader:
    """Returns a reader whose worker runs bulk on two of three processes; one is reserved for payments."""
    planned(3, ordered=True, payment={"weight": 6, "reserve": 1}, bulk={})
    reading.send("bulk", 9)
    reading.consumer.consume()
    assert reading.read() == {"bulk": 2}
    return reading


def test_redis_is_asked_only_for_queues_with_a_process_free(redis_broker: MessageBroker, reader: Any) -> None:
    planned(3, ordered=True, payment={"weight": 6, "reserve": 1}, bulk={})
    reading = reader("payment", "bulk", "project")
    for name in ("bulk", "project"):
        reading.send(name, 4)
    reading.consumer.consume()
    assert reading.read().total() == 2
    reading.send("payment", 4)
    assert reading.read()["payment"] == 1
    reading.end("payment", 1)
    assert reading.read()["payment"] == 1
    reading.end("bulk", 2)
    reading.end("project", 2)
    assert reading.read().total() == 3


def test_tasks_with_a_later_eta_take_no_process_on_redis(redis_broker: MessageBroker, reader: Any) -> None:
    reading = filled(reader("payment", "bulk"))
    reading.postpone("bulk")
    assert reading.read() == {"bulk": 4}


def test_tasks_from_before_a_reconnect_still_run(redis_broker: MessageBroker, reader: Any) -> None:
    before = filled(reader("payment", "bulk"))
    before.consumer.cancel()
    again = reader("payment", "bulk")
    again.consumer.consume()
    gc.collect()
    assert again.read() == {}
    assert len(before.tasks) == 2, "Celery knows them by weak references"


def unblocked(server: redis.Redis) -> int:
    return int(server.info("commandstats").get("cmdstat_client|unblock", {}).get("calls", 0))


def test_a_reader_is_woken_for_a_queue_that_has_a_process_again(redis_broker: MessageBroker, reader: Any) -> None:
    reading = filled(reader("payment", "bulk"))
    server = redis.Redis.from_url(redis_broker.unattended_url)
    reading.begin()
    before = unblocked(server)
    reading.end("bulk", 1)
    reading.begin()
    assert unblocked(server) == before + 1
    assert reading.read() == {"bulk": 2}


def test_a_redis_that_refuses_to_wake_a_reader_is_read_all_the_same(redis_broker: MessageBroker, caplog: Any) -> None:
    server = redis.Redis.from_url(redis_broker.unattended_url)
    server.flushdb()
    allowed = {"keys": ["*"], "channels": ["*"], "categories": ["+@all", "-@dangerous"]}
    server.acl_setuser("limited", enabled=True, passwords=["+secret"], **allowed)
    url = redis_broker.unattended_url.replace("redis://", "redis://limited:secret@")
    try:
        with Connection(url, transport=WORKER_TRANSPORTS["redis"]) as connection:
            reading = filled(Reader(url, connection, "payment", "bulk"))
            reading.begin()
            reading.end("bulk", 1)
            assert reading.read() == {"bulk": 2}
        assert "Redis refuses CLIENT ID or UNBLOCK" in caplog.text
    finally:
        server.acl_deluser("limited")
        pools.plan = None
        state.reserved_requests.clear()
