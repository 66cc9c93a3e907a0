"""Two projects share a message broker."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.acceptance.conftest import broker_worker, done, plain_worker
from tests.containers import ROOT
from tests.processes import finished, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from tests.acceptance.conftest import Ledger, Site, StartSite, StartWorker

pytestmark = pytest.mark.timeout(240)

PREFIX = "shop:"


@pytest.fixture(scope="module")
def other_project(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A project with its own database and key, and the same queue names."""
    with servers.sqlite() as database:
        own = {**database, "POSTGRES_HOST": "", "MYSQL_HOST": "", "SECRET_KEY": "of another project"}
        prepare = [sys.executable, "-m", "tests.acceptance.prepare"]
        subprocess.run(prepare, check=True, cwd=ROOT, env={**os.environ, **environment, **own})
        yield own


def answers(client: httpx.Client, number: int) -> list[httpx.Response]:
    accepted = [client.post("/note/shared/", headers={"X-Queue": "bulk"}) for _ in range(number)]
    return [client.get(done(client, each)["links"]["response"]) for each in accepted]


@pytest.mark.parametrize("command", [broker_worker, plain_worker])
def test_projects_with_a_prefix_do_not_take_each_others_messages(
    unattended: Site,
    other_project: dict[str, str],
    start_site: StartSite,
    start_worker: StartWorker,
    command: Callable[..., list[str]],
) -> None:
    url = {"BROKER_URL": unattended.process.env["BROKER_URL"]}
    site = start_site(**url, PREFIX=PREFIX)
    site.process.ready()
    foreign = start_worker(broker_worker, "--concurrency=2", **url, **other_project)
    options = ("--queues=bulk",) if command is broker_worker else ("--pool=solo", "-Q", f"{PREFIX}bulk")
    ours = start_worker(command, *options, **url, PREFIX=PREFIX)
    for worker in (foreign, ours):
        worker.wait_for_log(" ready.")
    with site.client() as client:
        assert {response.text for response in answers(client, 20)} == {"shared"}
    assert "is refused" not in foreign.logs()


def test_remote_control_reaches_the_workers_of_the_own_project_only(
    unattended: Site,
    environment: dict[str, str],
    other_project: dict[str, str],
    start_worker: StartWorker,
) -> None:
    url = {"BROKER_URL": unattended.process.env["BROKER_URL"]}
    foreign = start_worker(broker_worker, "--concurrency=1", **url, **other_project)
    ours = start_worker(broker_worker, "--concurrency=1", **url, PREFIX=PREFIX)
    doctor = [sys.executable, "-m", "django", "broker_doctor"]
    variables = {**os.environ, **environment, **url, "PREFIX": PREFIX}
    wait_until(lambda: f"queue bulk: served by {ours.hostname()}" in finished(doctor, variables).stdout)
    assert foreign.hostname() not in finished(doctor, variables).stdout


def test_large_requests_of_two_projects_lie_in_directories_of_their_own(
    unattended: Site, start_site: StartSite, ledger: Ledger, environment: dict[str, str], tmp_path: Path
) -> None:
    site = start_site(BROKER_URL=unattended.process.env["BROKER_URL"], PREFIX=PREFIX, MEDIA=str(tmp_path))
    site.process.ready()
    with site.client() as client:
        accepted = client.post("/note/large/", headers={"X-Queue": "bulk"}, content=b"x" * 400_000)
    dispatch_id = accepted.json()["id"]
    assert ledger.dispatch(dispatch_id).sealed_file.startswith(f"shop/request_broker/{dispatch_id}.")
    (file,) = (tmp_path / "shop" / "request_broker").iterdir()
    assert file.name.startswith(dispatch_id)
