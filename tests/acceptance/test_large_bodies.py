"""A large request is in the storage, and only its reference is on the queue."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.acceptance.conftest import broker_worker, done
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.acceptance.conftest import Ledger, Site, StartSite, StartWorker
    from tests.servers import MessageBroker

SIZE = 5 * 1024 * 1024
MESSAGE_AT_MOST = 4_000
"""Bytes of a message on Redis that holds a reference."""
QUEUED = {"X-Queue": "bulk", "Content-Type": "application/octet-stream"}


@pytest.fixture(params=["asgi", "wsgi"])
def client(
    request: pytest.FixtureRequest, unattended: Site, message_broker: MessageBroker, start_site: StartSite
) -> Iterator[httpx.Client]:
    """Returns a client of a site without a worker."""
    site = start_site(request.param, BROKER_URL=message_broker.unattended_url)
    site.process.ready()
    with site.client() as client:
        yield client


def file_of(media: Path, dispatch_id: str) -> Path:
    (name,) = (media / "request_broker").glob(f"{dispatch_id}.*")
    return name


def test_an_upload_is_replayed_intact_and_its_file_goes(
    client: httpx.Client, environment: dict[str, str], ledger: Ledger, start_worker: StartWorker
) -> None:
    content = random.Random(7).randbytes(SIZE)
    accepted = client.post("/body/", content=content, headers=QUEUED)
    record = ledger.dispatch(accepted.json()["id"])
    file = file_of(Path(environment["MEDIA"]), str(record.pk))
    assert bytes(record.sealed) == b""
    assert record.sealed_file.startswith(f"request_broker/{record.pk}.")
    assert SIZE < file.stat().st_size < SIZE + 10_000
    assert content[:64] not in file.read_bytes()

    start_worker(broker_worker)
    document = done(client, accepted)
    assert document["state"] == "succeeded"
    assert client.get(document["links"]["response"]).content == content
    wait_until(lambda: not file.exists())
    record = ledger.dispatch(document["id"])
    assert record.sealed_file == ""


def test_nothing_large_is_on_redis(client: httpx.Client, redis_broker: MessageBroker) -> None:
    assert client.post("/body/", content=bytes(SIZE), headers=QUEUED).status_code == 202
    with redis.Redis.from_url(redis_broker.unattended_url) as server:
        messages = server.lrange("bulk", 0, -1)
        assert [len(message) < MESSAGE_AT_MOST for message in messages] == [True]
        assert sum(server.memory_usage(key) for key in server.scan_iter()) < 10 * MESSAGE_AT_MOST


def test_a_file_that_is_gone_for_good_fails_the_dispatch_in_the_end(
    client: httpx.Client, environment: dict[str, str], ledger: Ledger, start_worker: StartWorker
) -> None:
    accepted = client.post("/body/", content=bytes(SIZE), headers=QUEUED)
    file_of(Path(environment["MEDIA"]), accepted.json()["id"]).unlink()
    start_worker(broker_worker)
    ledger.hand_back_long_ago(accepted.json()["id"])
    document = done(client, accepted)
    reason = "the stored request body is missing"
    assert (document["state"], document["error"]) == ("failed", f"the view was not reached: {reason}")
    answer = client.get(document["links"]["response"])
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert answer.json()["detail"] == reason
