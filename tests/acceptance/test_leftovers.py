"""What a view leaves in its process, in its context or in its database session is gone before the next replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests import servers
from tests.acceptance.conftest import PATIENCE, broker_worker, done, plain_worker
from tests.acceptance.poison import ANYWHERE, EXITS, POSTGRESQL, SQLITE

if TYPE_CHECKING:
    import httpx

    from tests.acceptance.conftest import Ledger, Site, StartSite, StartWorker

POISONS = [*ANYWHERE, *({"postgres": POSTGRESQL, "sqlite": SQLITE}.get(servers.DATABASE, {}))]
IN_CONTEXT = ["context variable", "decimal context", "time zone", "language", "no language", "urlconf", "environment"]


def accept(client: httpx.Client, path: str, queue: str = "bulk") -> httpx.Response:
    return client.post(path, headers={"X-Queue": queue, "Prefer": "respond-async"})


def probed(client: httpx.Client) -> dict[str, Any]:
    document = done(client, accept(client, "/probe/"))
    assert document["state"] == "succeeded", document
    return client.get(document["links"]["response"]).json()


def swallow(client: httpx.Client, path: str) -> None:
    document = done(client, accept(client, path))
    assert (document["state"], document["attempts"]) == ("succeeded", 1), (path, document)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_a_view_leaves_nothing_to_the_next(
    unattended: Site, sites: dict[str, Site], start_site: StartSite, start_worker: StartWorker, interface: str
) -> None:
    site = unattended
    if interface == "wsgi":
        site = start_site("wsgi", BROKER_URL=unattended.process.env["BROKER_URL"])
        site.process.ready()
    start_worker(broker_worker, "--concurrency=1")
    with site.client() as client:
        clean = probed(client)
        assert clean["tenant"] == "nobody"
        for name in POISONS:
            swallow(client, f"/poison/{name}/")
            assert (name, probed(client)) == (name, clean)
        for name in IN_CONTEXT:
            swallow(client, f"/apoison/{name}/")
            assert (name, probed(client)) == (name, clean)


@pytest.mark.skipif(servers.DATABASE != "postgres", reason="Django has a pool of connections to PostgreSQL")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("close", ["", "?close=1"])
def test_a_view_leaves_nothing_in_a_pool_of_connections(
    start_site: StartSite, unattended: Site, start_worker: StartWorker, close: str
) -> None:
    site = start_site(BROKER_URL=unattended.process.env["BROKER_URL"], DATABASE_POOL="4")
    site.process.ready()
    start_worker(broker_worker, "--concurrency=1", DATABASE_POOL="1")
    with site.client() as client:
        clean = probed(client)
        for name in (*POSTGRESQL, "begin", "atomic", "autocommit", "temporary table"):
            swallow(client, f"/poison/{name}/{close}")
            assert (name, probed(client)) == (name, clean)


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_view_that_exits_ends_its_dispatch_and_no_worker(
    unattended: Site, start_worker: StartWorker, ledger: Ledger, pool: str
) -> None:
    worker = start_worker(plain_worker, f"--pool={pool}", "--concurrency=2")
    with unattended.client() as client:
        accepted = [
            (name, accept(client, f"/{view}/{name}/", "once")) for name in EXITS for view in ("leave", "aleave")
        ]
        for name, response in accepted:
            document = done(client, response)
            assert (document["state"], document["attempts"]) == ("failed", 1)
            raised = RuntimeError if name == "stop iteration" else type(EXITS[name])
            assert document["error"] == raised.__name__
            assert client.get(document["links"]["response"]).status_code == 500
        assert client.get(accept(client, "/probe/").headers["Location"], params={"wait": PATIENCE}).json()["done"]
    assert worker.container.status == "running"


@pytest.mark.parametrize("name", ["begin", "atomic"])
def test_a_transaction_that_a_view_left_open_keeps_no_outcome(
    unattended: Site, start_worker: StartWorker, ledger: Ledger, name: str
) -> None:
    worker = start_worker(broker_worker, "--concurrency=1")
    with unattended.client() as client:
        swallow(client, f"/poison/{name}/")
        accepted = [done(client, accept(client, "/note/x/", "once")) for _ in range(8)]
    worker.container.kill_all()
    for document in accepted:
        assert document["state"] == "succeeded"
        assert ledger.dispatch(document["id"]).attempts == ledger.executions(document["id"]) == 1
    assert ledger.executions("never committed") == 0
