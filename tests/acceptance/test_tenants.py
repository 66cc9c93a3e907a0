"""A project with a database for each tenant: web processes and workers share one ledger."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import done
from tests.containers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Ledger, Site, StartSite, StartWorker
    from tests.servers import MessageBroker


@pytest.mark.parametrize("router", ["ByContext", "ByThread"])
def test_a_worker_finds_the_dispatches_of_tenants(
    router: str,
    unattended: Site,
    ledger: Ledger,
    start_site: StartSite,
    start_worker: StartWorker,
    message_broker: MessageBroker,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    tenants = {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.tenants",
        "TENANT_ROUTER": f"tests.site.tenants.{router}",
        "TENANT_PATH": str(tmp_path / "tenant.sqlite3"),
        "BROKER_URL": message_broker.unattended_url,
    }
    migrate = [sys.executable, "-m", "django", "migrate", "--database=tenant", "--run-syncdb", "-v0"]
    subprocess.run(migrate, check=True, cwd=ROOT, env={**environment, **tenants})
    site, worker = start_site("wsgi", **tenants), start_worker(**tenants)
    site.process.ready()
    worker.container.ready()
    with site.client() as client:
        accepted = [client.post("/pay/", data={"amount": "1"}) for _ in range(3)]
        documents = [done(client, each) for each in accepted]
        assert [document["state"] for document in documents] == ["succeeded"] * 3
        assert client.get(documents[-1]["links"]["response"]).json()["paid"] == "1"
    assert len(ledger.dispatches([document["id"] for document in documents])) == 3
    with closing(sqlite3.connect(tmp_path / "tenant.sqlite3")) as tenant:
        assert tenant.execute("SELECT count(*) FROM site_execution").fetchone() == (3,), "the views' rows are there"
        assert tenant.execute("SELECT count(*) FROM broker_django_dispatchrecord").fetchone() == (0,)
        assert tenant.execute("SELECT count(*) FROM django_celery_results_taskresult").fetchone() == (0,)
