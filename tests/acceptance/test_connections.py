"""The database connections of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connections

from tests import servers
from tests.acceptance.conftest import ALIAS, broker_worker, done

if TYPE_CHECKING:
    import httpx

    from tests.acceptance.conftest import Ledger, Site, StartWorker


def connections_made(client: httpx.Client) -> int:
    """Returns how often the process that answers has connected."""
    document = done(client, client.post("/connections/", headers={"X-Queue": "bulk"}))
    assert document["state"] == "succeeded", document
    return int(client.get(document["links"]["response"]).text)


@pytest.mark.parametrize(
    ("variables", "kept"), [({"CONN_MAX_AGE": "60"}, True), ({}, True), ({"REUSE_MAX": "1"}, False)]
)
def test_connections_are_kept_unless_the_project_says_otherwise(
    unattended: Site, start_worker: StartWorker, variables: dict[str, str], *, kept: bool
) -> None:
    if servers.DATABASE == "mariadb":  # its sessions cannot be reset
        variables = {**variables, "RESET_CONNECTIONS": "0"}
    start_worker(broker_worker, "--concurrency=1", **variables)
    with unattended.client() as client:
        made = [connections_made(client) for _ in range(3)]
    assert made == ([made[0]] * 3 if kept else sorted(set(made)))


@pytest.mark.skipif(servers.DATABASE != "postgres", reason="there is no server that could cut a connection")
def test_a_kept_connection_that_was_cut_costs_no_dispatch(
    unattended: Site, start_worker: StartWorker, ledger: Ledger
) -> None:
    start_worker(broker_worker, "--concurrency=1")
    with unattended.client() as client:
        made = connections_made(client)
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database() AND backend_type = 'client backend'"
            )
        assert connections_made(client) > made


@pytest.mark.skipif(servers.DATABASE != "postgres", reason="Django has a pool of connections to PostgreSQL")
@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_worker_uses_the_pool_of_connections_that_the_project_has(
    unattended: Site, start_worker: StartWorker, pool: str
) -> None:
    start_worker(broker_worker, "--concurrency=2", f"--pool={pool}", DATABASE_POOL="4")
    with unattended.client() as client:
        accepted = [client.post("/note/x/", headers={"X-Queue": "bulk"}) for _ in range(20)]
        assert [done(client, each)["state"] for each in accepted] == ["succeeded"] * 20
