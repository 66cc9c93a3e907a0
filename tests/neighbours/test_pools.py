"""Django's pool of psycopg connections is not changed, and every process uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest
from redis import Redis

from tests.neighbours import needs
from tests.neighbours.conftest import PATIENCE, QUEUED, finished

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.neighbours.conftest import Project
    from tests.servers import MessageBroker

needs("psycopg_pool", "simple_history", "auditlog", "reversion", in_process=False)

pytestmark = pytest.mark.server("postgres", "valkey")


@pytest.mark.parametrize(("pool", "kind"), [("on", "prefork"), ("small", "threads")])
def test_a_project_with_a_pool(start: Callable[..., Project], redis: MessageBroker, pool: str, kind: str) -> None:
    project = start("pool", POOL=pool)
    assert "no issues" in project.manage("check", "--fail-level=WARNING")
    url = project.web()
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        lost = client.post("/order/", data={"name": "lost"}, headers=QUEUED)
        Redis.from_url(redis.url).delete(f"{project.variables['PREFIX']}.bulk")
        worker = project.worker(f"--pool={kind}")
        assert finished(client, lost).json()["attempt"] == 1, "the reaper had it run"
        sent = [client.post("/order/", data={"name": f"{n}"}, headers=QUEUED) for n in range(20)]
        answers = [finished(client, each).json() for each in sent]
        assert {(each["pooled"], each["attempt"]) for each in answers} == {(True, 1)}
        broken = [client.post("/failing/", data={"name": "x"}, headers=QUEUED) for _ in range(8)]
        assert {finished(client, each).json()["attempt"] for each in broken} == {2}
        assert finished(client, client.post("/order/", data={"name": "y"}, headers=QUEUED)).is_success
        assert client.get("/stats/").json().get("requests_errors", 0) == 0
    assert "Pooling doesn't support" not in worker.logs()
    with psycopg.connect(project.dsn) as link:
        kept = link.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'").fetchone()
    assert kept == (0,)
