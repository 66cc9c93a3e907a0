"""One Idempotency-Key, two web servers, one execution."""

from __future__ import annotations

import asyncio
import os
import resource
import uuid
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from broker_django.models import DispatchRecord
from tests import servers
from tests.acceptance.conftest import ALIAS, KEPT, PATIENCE, done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_celery import CeleryWorkerCluster

    from tests.acceptance.conftest import Gates, Ledger, Site, StartSite

REQUESTS = int(os.environ.get("TEST_REQUESTS", "400"))
"""The number of repetitions. The last quarters are sent when the response is stored."""
AT_ONCE = REQUESTS if servers.DATABASE == "sqlite" else 60
"""PostgreSQL has 100 connections and MariaDB 151 by default, and under ASGI each request has one of
its own.
"""


@pytest.fixture
def both(sites: dict[str, Site], celery_worker_cluster: CeleryWorkerCluster) -> list[Site]:
    """Returns two web processes that share a database."""
    return [sites["asgi"], sites["wsgi"]]


@pytest.fixture
def with_room(both: list[Site], start_site: StartSite) -> list[Site]:
    """Returns two that accept hundreds of connections at once; Django's own server queues only ten."""
    other = start_site("asgi")
    other.process.ready()
    return [both[0], other]


@pytest.fixture
def many_sockets() -> Iterator[None]:
    """Allow this process a file descriptor for each request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * REQUESTS), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def send_all(
    sites: list[Site], path: str, headers: dict[str, str], after_a_quarter: Callable[[], None]
) -> list[httpx.Response]:
    """Send the same request many times to each site in turn, at once if the database has enough connections."""
    answers: list[httpx.Response] = []
    turns = asyncio.Semaphore(AT_ONCE)
    limits = httpx.Limits(max_connections=AT_ONCE, keepalive_expiry=KEPT)
    async with httpx.AsyncClient(timeout=4 * PATIENCE, trust_env=False, limits=limits) as client:

        async def send(number: int) -> None:
            url = f"{sites[number % len(sites)].url}{path}"
            async with turns:
                try:
                    answer = await client.post(url, data={"amount": "5"}, headers=headers)
                except httpx.TransportError:  # a cut connection, for which clients send a key
                    answer = await client.post(url, data={"amount": "5"}, headers=headers)
                answers.append(answer)
            if len(answers) == REQUESTS // 4:
                after_a_quarter()

        await asyncio.gather(*map(send, range(REQUESTS)))
    return answers


def content_of(answer: httpx.Response) -> str:
    """Returns the path of the status URL, or the response itself."""
    if answer.status_code in {202, 409}:
        return urlsplit(answer.headers["Location"]).path
    return answer.text


@pytest.mark.timeout(300)
def test_hundreds_of_requests_with_one_key_are_one_execution(
    many_sockets: None, with_room: list[Site], gates: Gates, ledger: Ledger
) -> None:
    gate = gates.new()
    path = f"/gate/{gate}/"
    headers = {"Idempotency-Key": f'"{uuid.uuid4()}"', "X-Queue": "payment"}
    answers = asyncio.run(send_all(with_room, path, headers, lambda: gates.open(gate)))

    statuses = Counter(answer.status_code for answer in answers)
    assert len(answers) == REQUESTS
    assert not {(answer.status_code, answer.text) for answer in answers if answer.status_code not in {200, 202, 409}}
    assert statuses[202]
    assert {content_of(answer) for answer in answers if answer.status_code == 200} <= {gate}
    [status] = {content_of(answer) for answer in answers if answer.status_code != 200}

    [record] = DispatchRecord.objects.using(ALIAS).filter(path=path)
    with with_room[0].client() as client:
        document = client.get(status, params={"wait": PATIENCE}).json()
        later = client.post(path, data={"amount": "5"}, headers=headers)
    assert (document["id"], document["state"]) == (str(record.pk), "succeeded")
    assert (later.status_code, content_of(later)) == (200, gate), "which others may have got, too"
    assert (ledger.executions(document["id"]), document["attempts"]) == (1, 1)


def test_a_repetition_at_another_process_gets_the_stored_response(both: list[Site], ledger: Ledger) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    with both[0].client() as here, both[1].client() as there:
        accepted = here.post("/pay/", data={"amount": "5"}, headers=headers)
        document = done(here, accepted)
        stored = here.get(document["links"]["response"])
        again = there.post("/pay/", data={"amount": "5"}, headers=headers)
        other = there.post("/pay/", data={"amount": "6"}, headers=headers)
    assert (again.status_code, again.content) == (201, stored.content)
    assert (other.status_code, other.json()["type"]) == (422, "urn:request-broker:problem:idempotency-key-reused")
    assert ledger.executions(document["id"]) == 1


def test_a_repetition_may_wait_for_the_first_request(both: list[Site], gates: Gates) -> None:
    gate = gates.new()
    headers = {"Idempotency-Key": str(uuid.uuid4()), "X-Queue": "realtime"}

    async def race() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=PATIENCE + 10, trust_env=False) as client:
            first = await client.post(f"{both[0].url}/gate/{gate}/", headers=headers)
            prefer = {**headers, "Prefer": f"wait={PATIENCE}"}
            waiting = [asyncio.create_task(client.post(f"{site.url}/gate/{gate}/", headers=prefer)) for site in both]
            finished, _ = await asyncio.wait(waiting, timeout=0.5)
            assert not finished
            gates.open(gate)
            return [first, *[await each for each in waiting]]

    first, *again = asyncio.run(race())
    assert first.status_code == 202
    assert [(answer.status_code, answer.text) for answer in again] == [(200, gate)] * 2
