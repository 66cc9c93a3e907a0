"""Only the view can read what a client sends: it is not readable on Redis, in logs or in Flower."""

from __future__ import annotations

import base64
import contextlib
import sys
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis

from broker_django.development.ports import any_port
from tests import servers
from tests.acceptance.conftest import Site, done
from tests.containers import Process
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import StartSite, StartWorker

MARKER = "xK7-secret-marker-4111111111111111"
QUEUED = {"X-Queue": "payment"}


@dataclass(frozen=True, slots=True)
class Installation:
    """A separate Redis with a site and Flower; a worker can be started."""

    redis_url: str
    site: Site
    flower: Process
    flower_url: str
    variables: dict[str, str]


@pytest.fixture(params=["database", "redis"])
def installation(
    request: pytest.FixtureRequest, environment: dict[str, str], start_site: StartSite
) -> Iterator[Installation]:
    """With results in the database, and with results in Redis."""
    with servers.valkey() as broker, contextlib.ExitStack() as processes:
        variables = {"BROKER_URL": broker.url, "FLOWER_UNAUTHENTICATED_API": "true"}
        if request.param == "redis":
            variables["RESULT_BACKEND"] = broker.unattended_url
        port = any_port()
        flower_url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "celery", "-A", "workers.celery", "flower", "--address=127.0.0.1"]
        flower = Process(
            "flower",
            [*command, f"--port={port}"],
            {**environment, **variables},
            ready_prompt=lambda: servers.listens(port) and "Connected to" in flower.logs(),
        )
        processes.callback(flower.teardown)
        site = start_site(**variables)
        site.process.ready()
        flower.ready()
        yield Installation(broker.url, site, flower, flower_url, variables)


def forms_of(text: str) -> list[bytes]:
    """The text as it is, and in base64 at each of the three offsets, without the ends that depend on neighbours."""
    raw = text.encode()
    shifted = [base64.b64encode(b"\0" * shift + raw)[4:-4] for shift in range(3)]
    return [raw, urllib.parse.quote(text, safe="").encode(), *shifted]


def dump(url: str) -> bytes:
    """Returns the content of all databases of this Redis."""
    found: list[object] = []
    for number in range(4):
        with redis.Redis.from_url(url.rsplit("/", 1)[0] + f"/{number}") as server:
            for key in server.scan_iter():
                found += [key, _value(server, key)]
    return repr(found).encode()


def _value(server: redis.Redis, key: bytes) -> object:
    readers = {
        b"string": server.get,
        b"list": lambda name: server.lrange(name, 0, -1),
        b"hash": server.hgetall,
        b"set": server.smembers,
        b"zset": lambda name: server.zrange(name, 0, -1),
    }
    return readers[server.type(key)](key)


def flower_tasks(installation: Installation) -> dict[str, Any]:
    return httpx.get(f"{installation.flower_url}/api/tasks", trust_env=False).raise_for_status().json()


def test_nothing_that_a_client_sent_can_be_read_on_the_way(
    installation: Installation, start_worker: StartWorker, alone: None
) -> None:
    bearer = {"Authorization": f"Bearer {MARKER}"}
    with installation.site.client(cookies={"card": MARKER}, headers=bearer) as client:
        accepted = client.post(
            "/pay/",
            params={"card": MARKER},
            data={"amount": MARKER},
            headers={"X-Card": MARKER},
        )
        dispatch_id = accepted.json()["id"]
        waiting = dump(installation.redis_url)
        assert dispatch_id.encode() in waiting, "the message is on Redis"

        worker = start_worker(**installation.variables)
        worker.ready()
        document = done(client, accepted)
        assert client.get(document["links"]["response"]).json()["paid"] == MARKER, "the view has read it"
        second = client.post("/pay/", params={"card": MARKER}, data={"amount": MARKER})
        done(client, second)

    wait_until(lambda: shown(installation, second.json()["id"]))
    tasks = flower_tasks(installation)
    task = tasks[second.json()["id"]]
    assert task["name"] == "POST /pay/ (payment)"
    everything = {
        "Redis before the run": waiting,
        "Redis after the run": dump(installation.redis_url),
        "the log of the worker": worker.logs().encode(),
        "the log of the site": sent_by_the_broker(installation.site.process.logs()),
        "the log of Flower": installation.flower.logs().encode(),
        "the tasks in Flower": repr(tasks).encode(),
    }
    for place, content in everything.items():
        for form in forms_of(MARKER):
            assert form not in content, place


def shown(installation: Installation, dispatch_id: str) -> bool:
    return flower_tasks(installation).get(dispatch_id, {}).get("state") == "SUCCESS"


def sent_by_the_broker(log: str) -> bytes:
    """The log without the access log, where web servers write every URL."""
    return "\n".join(line for line in log.splitlines() if "HTTP/1.1" not in line).encode()
