"""A message broker with too little memory for the accepted dispatches."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import pytest
import redis
from kombu import Connection

from broker_django.models import DispatchRecord
from tests import servers
from tests.acceptance.conftest import ALIAS, broker_worker, plain_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Ledger, Site, StartSite, StartWorker

BODY = b"x" * 60_000
"""The size of a body whose message takes about 84 kB: base64 twice, and Celery's part."""
MOST = 20
MANY = 100

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def small() -> Iterator[servers.MessageBroker]:
    """A Redis with memory for about fifty such messages."""
    with servers.valkey("--maxmemory", "6mb") as broker:
        yield broker


def fill(broker: servers.MessageBroker) -> None:
    """Fill Redis, so that it stays full if connections close, whose buffers count too."""
    client = redis.Redis.from_url(broker.url)
    for size in (10_000, 100):
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            while True:
                client.rpush("somebody else's", b"x" * size)
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 200_000)


def send(site: Site, queue: str, number: int) -> list[str]:
    with site.client() as client:
        accepted = [client.post("/note/full/", headers={"X-Queue": queue}, content=BODY) for _ in range(number)]
    assert {response.status_code for response in accepted} == {202}
    return [response.json()["id"] for response in accepted]


def states(ids: list[str]) -> dict[str, int]:
    found = list(DispatchRecord.objects.using(ALIAS).filter(pk__in=ids).values_list("state", flat=True))
    return {state: found.count(state) for state in found}


def test_more_than_the_message_broker_holds_is_accepted_and_all_of_it_runs(
    alone: None, small: servers.MessageBroker, start_site: StartSite, ledger: Ledger, start_worker: StartWorker
) -> None:
    variables = {"BROKER_URL": small.url, "BULK_PUBLISHED": str(MOST)}
    site = start_site(**variables)
    site.process.ready()
    ids = send(site, "bulk", 2 * MANY)
    assert redis.Redis.from_url(small.url).llen("bulk") <= MOST + 10, "what one process sends in a second is too much"
    start_worker(broker_worker, "--concurrency=2", **variables)
    paid = send(site, "payment", 5)
    wait_until(lambda: states(paid) == {"succeeded": 5})
    assert states(ids).get("queued", 0) > 0, "the held ones hold up nobody"
    wait_until(lambda: states(ids) == {"succeeded": 2 * MANY}, 120)
    assert {ledger.executions(each) for each in ids} == {1}


@pytest.mark.parametrize("filled", [True, False], ids=["by others", "by ours"])
@pytest.mark.parametrize("queues", [["--queues=bulk"], []], ids=["bulk", "all"])
def test_a_worker_starts_and_makes_room_though_the_message_broker_is_full(
    alone: None,
    small: servers.MessageBroker,
    start_site: StartSite,
    ledger: Ledger,
    start_worker: StartWorker,
    queues: list[str],
    filled: bool,
) -> None:
    variables = {"BROKER_URL": small.url, "BULK_PUBLISHED": "10000"}
    site = start_site(**variables)
    site.process.ready()
    ids = send(site, "bulk", MANY)
    if filled:
        fill(small)
    worker = start_worker(broker_worker, *queues, "--concurrency=2", **variables)
    wait_until(lambda: states(ids) == {"succeeded": MANY}, 120)
    assert worker.container.status == "running"


@pytest.mark.parametrize("command", [broker_worker, plain_worker])
def test_a_worker_that_redis_refuses_fails_and_says_what_to_do(
    small: servers.MessageBroker, start_worker: StartWorker, command: Callable[..., list[str]]
) -> None:
    fill(small)
    worker = start_worker(command, BROKER_URL=small.url)
    wait_until(lambda: worker.container.status == "exited", 60)
    assert worker.container.exit_status not in (0, None)
    assert "Redis has reached its maxmemory and accepts no more data: raise maxmemory" in worker.logs()


@pytest.fixture
def now_and_then_full(small: servers.MessageBroker) -> Iterator[servers.MessageBroker]:
    """A Redis that is full and empty again many times a second."""
    over = threading.Event()

    def fill_and_empty() -> None:
        with redis.Redis.from_url(small.url) as client:
            while not over.is_set():
                client.config_set("maxmemory", 1)
                client.config_set("maxmemory", "6mb")

    thread = threading.Thread(target=fill_and_empty)
    thread.start()
    yield small
    over.set()
    thread.join()


def test_a_message_is_run_and_put_back_whenever_redis_becomes_full(now_and_then_full: servers.MessageBroker) -> None:
    """Redis refuses a command, or the whole transaction if memory ran out within it."""
    url, large = now_and_then_full.url, "x" * 60_000
    missed = {redis.exceptions.OutOfMemoryError, redis.exceptions.ExecAbortError}
    with Connection(url, transport="workers.consuming.redis:Transport") as connection, connection.channel() as channel:
        pipeline = channel.client.pipeline()
        for number in itertools.count():
            read = {"exchange": "bulk", "routing_key": "bulk"}
            properties = {"delivery_info": read, "delivery_tag": str(number)}
            channel.qos.append(channel.message_to_python({"body": large, "properties": properties}), str(number))
            channel.qos.reject(str(number), requeue=number % 2 == 0)
            try:
                pipeline.zadd("index", {"a": 1}).hset("noted", "a", large).delete("index", "noted", "bulk").execute()
            except redis.exceptions.ResponseError as error:
                missed.discard(type(error))
            if number > 500 and not missed:
                break
