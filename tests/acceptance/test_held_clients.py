"""Waiting clients use no resources that others need, on every kind of server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from django.contrib.sessions.models import Session

from tests.acceptance.conftest import ALIAS, PATIENCE, done
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests import servers
    from tests.acceptance.conftest import Gates, Ledger, Site, StartSite, Worker

SERVERS = ["asgi", "wsgi", "sync", "gthread", "gevent"]
PROMPTLY = 6.0
"""Seconds within which an ordinary page answers, on a machine that is busy with tests, while others wait."""
OWN = 1
"""The database connections that an idle process has: that of its routing table."""


@pytest.fixture
def serve(start_site: StartSite, message_broker: servers.MessageBroker) -> Callable[..., Site]:
    """Start a server and wait until it is ready. A worker serves it only if it is `attended`."""

    def start(interface: str, *, attended: bool = False, **variables: str) -> Site:
        if not attended:
            variables["BROKER_URL"] = message_broker.unattended_url
        site = start_site(interface, **variables)
        site.process.ready()
        if interface == "gthread":
            show_threads(site)
        return site

    return start


def show_threads(site: Site) -> None:
    """Use more than one thread of the server, because the site only then knows of them."""
    with ThreadPoolExecutor(4) as threads, site.client() as client:
        assert all(threads.map(lambda _: client.get("/echo/").is_success, range(80)))


def accept(site: Site) -> str:
    """Returns the status URL of a dispatch that no worker claims."""
    with site.client() as client:
        return str(client.post("/note/held/", headers={"X-Queue": "bulk"}).headers["Location"])


def family(site: Site) -> list[psutil.Process]:
    process = psutil.Process(site.process.pid)
    return [process, *process.children(recursive=True)]


def serving(site: Site) -> psutil.Process:
    """Returns the process that serves: under gunicorn and `parent_watch` the last that was started."""
    return family(site)[-1]


def connected(process: psutil.Process, environment: dict[str, str]) -> int:
    """Returns how many connections to the database the process has."""
    if "POSTGRES_PORT" in environment:
        port = int(environment["POSTGRES_PORT"])
        return sum(bool(each.raddr) and each.raddr.port == port for each in process.net_connections())
    journal = f"{environment['DATABASE_PATH']}-wal"  # SQLite keeps the database's own file open for the locks on it
    return sum(each.path == journal for each in process.open_files())


def page_answers_promptly(site: Site) -> None:
    with site.client() as client:
        for _ in range(3):
            began = time.monotonic()
            assert client.get("/echo/").is_success
            assert time.monotonic() - began < PROMPTLY


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


@contextlib.asynccontextmanager
async def streams(urls: list[str]) -> Any:
    """Opens event streams and reads their first state."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False, limits=limits) as client, AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(client.stream("GET", f"{url}events/")) for url in urls]
        lines = [stream.aiter_lines() for stream in opened]
        assert [await anext(each) for each in lines] == ["event: state"] * len(urls)
        yield lines


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


@pytest.mark.usefixtures("alone")
def test_thirty_streams_keep_one_connection(serve: Callable[..., Site], environment: dict[str, str]) -> None:
    site = serve("asgi")
    urls = [accept(site) for _ in range(3)] * 10
    threads = serving(site).num_threads()

    async def scenario() -> None:
        async with streams(urls):
            await in_thread(wait_until, lambda: connected(serving(site), environment) <= OWN + 1)
            assert serving(site).num_threads() - threads < 15
            await in_thread(page_answers_promptly, site)
        await in_thread(wait_until, lambda: connected(serving(site), environment) <= OWN)

    run(scenario())


@pytest.mark.usefixtures("alone")
def test_sixty_waits_on_an_event_loop_keep_one_connection(
    serve: Callable[..., Site], environment: dict[str, str]
) -> None:
    site = serve("asgi")
    urls = [accept(site) for _ in range(3)] * 20

    async def scenario() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False, limits=limits) as client:
            polls = [asyncio.ensure_future(client.get(url, params={"wait": PATIENCE})) for url in urls]
            await in_thread(wait_until, lambda: connected(serving(site), environment) == OWN + 1)
            await in_thread(page_answers_promptly, site)
            with site.client() as other:
                for url in set(urls):
                    assert other.delete(url).status_code == 202
            answers = [await poll for poll in polls]
            assert {answer.json()["state"] for answer in answers} <= {"cancelled", "queued"}
            assert sum(answer.json()["state"] == "cancelled" for answer in answers) >= 50

    run(scenario())


def test_a_stream_tells_each_change(serve: Callable[..., Site], worker: Worker, gates: Gates) -> None:
    site, gate = serve("asgi", attended=True), gates.new()

    async def scenario() -> None:
        with site.client() as client:
            url = client.post(f"/gate/{gate}/", headers={"X-Queue": "bulk"}).headers["Location"]
            wait_until(lambda: client.get(url).json()["state"] == "running")
        async with streams([url]) as [lines]:
            gates.open(gate)
            ids = [line.removeprefix("id: ") async for line in lines if line.startswith("id: ")]
        assert ids == ["running", "succeeded"]

    run(scenario())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("interface", ["sync", "gthread"])
def test_streams_do_not_block_threads_and_workers(serve: Callable[..., Site], interface: str) -> None:
    site = serve(interface)
    urls = [accept(site)] * 20

    async def scenario() -> None:
        async with streams(urls) as opened:
            await in_thread(page_answers_promptly, site)
            with site.client() as client:
                assert client.delete(urls[0]).status_code == 202
            received = [[line async for line in lines] for lines in opened]
            assert all("id: cancelled" in lines or "retry: 1000" in lines for lines in received)
            assert any("id: cancelled" in lines for lines in received) is (interface == "gthread")

    run(scenario())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("interface", SERVERS)
def test_no_stream_is_held_back_to_be_compressed(serve: Callable[..., Site], interface: str) -> None:
    site = serve(interface, OUTER_MIDDLEWARE="django.middleware.gzip.GZipMiddleware")
    url, reads = accept(site), httpx.Timeout(PROMPTLY)
    headers = {"Accept-Encoding": "gzip"}
    with site.client(headers=headers) as client, client.stream("GET", f"{url}events/", timeout=reads) as stream:
        assert next(stream.iter_lines()) == "event: state"
        assert "Content-Encoding" not in stream.headers
        with site.client() as other:  # so that no client is held when the server stops
            assert other.delete(url).status_code == 202


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("interface", ["sync", "gthread"])
def test_sixty_waits_do_not_hold_up_a_page(serve: Callable[..., Site], interface: str) -> None:
    site = serve(interface)
    urls = [accept(site) for _ in range(3)] * 20

    async def scenario() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False, limits=limits) as client:
            polls = [asyncio.ensure_future(client.get(url, params={"wait": 10})) for url in urls]
            await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
            await in_thread(page_answers_promptly, site)
            for poll in polls:
                answer = await poll
                assert (answer.status_code, answer.headers["Retry-After"]) == (200, "1")

    run(scenario())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("interface", ["one thread", "two threads"])
@pytest.mark.parametrize("what", ["", "response/", "events/"])
def test_one_client_does_not_block_pages_if_there_are_few_threads(
    serve: Callable[..., Site], interface: str, what: str
) -> None:
    site = serve(interface)
    url = accept(site)
    with ThreadPoolExecutor() as threads, site.client() as client:
        waits = threads.submit(client.get, url + what, params={"wait": PATIENCE})
        page_answers_promptly(site)
        with site.client() as other:
            assert other.delete(url).status_code == 202
        assert waits.result().is_success or waits.result().status_code == 410


@pytest.mark.parametrize("interface", SERVERS)
def test_every_endpoint_on_every_server(
    serve: Callable[..., Site], worker: Worker, gates: Gates, interface: str
) -> None:
    site, gate = serve(interface, attended=True), gates.new()
    with site.client() as client:
        accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "bulk"})
        here = accepted.headers["Location"]
        assert client.get(here).json()["done"] is False
        assert client.get(f"{here}response/").status_code == 202
        gates.open(gate)
        wait_until(lambda: client.get(here, params={"wait": 5}).json()["done"])
        assert done(client, accepted)["state"] == "succeeded"
        assert client.get(f"{here}response/", params={"wait": 5}).text == gate
        assert client.get(f"{here}events/").text.startswith("event: state\nid: succeeded\n")
        assert client.delete(here).status_code == 409
        assert client.get("/broker/health/").json() == {"status": "pass"}
        assert client.get("/broker/openapi.json").json()["servers"] == [{"url": "/broker"}]
        held = client.post("/note/held/", headers={"X-Queue": "bulk", "Prefer": "wait=5"})
        assert held.status_code in ({200} if interface != "sync" else {200, 202})
    logged = site.process.logs()
    assert "/broker/tasks/" in logged
    assert here.rstrip("/").rpartition(".")[2] not in logged


@pytest.mark.usefixtures("alone")
def test_over_the_limit_polls_are_answered_at_once_and_streams_end(serve: Callable[..., Site]) -> None:
    site = serve("asgi", MAX_HELD="2")
    url = accept(site)

    async def scenario() -> None:
        async with streams([url, url]):
            answer = await in_thread(lambda: httpx.get(url, params={"wait": 10}, timeout=10, trust_env=False))
            assert (answer.json()["state"], answer.headers["Retry-After"]) == ("queued", "1")
            over = await in_thread(lambda: httpx.get(f"{url}events/", timeout=10, trust_env=False))
            assert over.text.endswith("\n\nretry: 1000\n\n")
        async with streams([url, url]) as [first, _second]:  # clients that left no longer count
            with site.client() as client:
                assert client.delete(url).status_code == 202
            assert "id: cancelled" in [line async for line in first]

    run(scenario())


@pytest.mark.usefixtures("alone")
def test_a_stream_continues_without_a_message_broker(serve: Callable[..., Site]) -> None:
    site = serve("asgi", BROKER_URL="redis://127.0.0.1:1/0")
    url = accept(site)

    async def scenario() -> None:
        async with streams([url]) as [lines]:
            with site.client() as client:
                assert client.delete(url).status_code == 202
            assert "id: cancelled" in [line async for line in lines]

    run(scenario())


def stored_session(client: httpx.Client) -> str:
    return Session.objects.using(ALIAS).get(pk=client.cookies["sessionid"]).session_data


def test_a_held_client_keeps_the_session_data_of_the_view(
    serve: Callable[..., Site], worker: Worker, gates: Gates, ledger: Ledger
) -> None:
    """With synchronous middleware that writes into the session before and after each view."""
    site = serve("asgi", attended=True, TOUCH_SESSIONS="1")
    with site.client() as client, site.client() as other:
        for path in ("gate", "gate-and-count"):
            gate = gates.new()
            accepted = client.post(f"/{path}/{gate}/", headers={"X-Queue": "bulk"})
            other.cookies = client.cookies
            before = stored_session(client)
            with ThreadPoolExecutor() as threads:
                polling = threads.submit(other.get, accepted.headers["Location"], params={"wait": PATIENCE})
                wait_until(lambda before=before: stored_session(client) != before)  # the poll is held
                gates.open(gate)
                assert polling.result().json()["state"] == "succeeded"
        assert client.post("/count/").text == "2"
