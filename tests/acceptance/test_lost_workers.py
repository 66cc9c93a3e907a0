"""Worker processes that are killed while they run a dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from tests.acceptance.conftest import PATIENCE, broker_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker, Worker


def kill_child(worker: Worker) -> None:
    [child] = [process for process in psutil.Process(worker.container.pid).children() if process.is_running()]
    child.kill()
    child.wait()


def run_and_lose(site: Site, ledger: Ledger, worker: Worker, gate: str, times: int) -> str:
    """Returns the id of a dispatch whose worker process was killed this many times."""
    with site.client() as client:
        dispatch_id = client.post(f"/gate/{gate}/", headers={"X-Queue": "bulk"}).json()["id"]
    for attempt in range(1, times + 1):
        wait_until(
            lambda n=attempt: (d := ledger.dispatch(dispatch_id)).state == "running" and d.attempts == n, PATIENCE
        )
        kill_child(worker)
    return dispatch_id


def test_a_dispatch_runs_again_when_its_process_was_lost(
    unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    worker = start_worker(broker_worker, "--concurrency=1")
    gate = gates.new()
    dispatch_id = run_and_lose(unattended, ledger, worker, gate, times=1)
    gates.open(gate)
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "succeeded", PATIENCE)
    assert ledger.dispatch(dispatch_id).attempts == 2
    assert ledger.executions(dispatch_id) == 1


def test_a_dispatch_that_loses_every_process_fails_when_its_attempts_are_used_up(
    unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    worker = start_worker(broker_worker, "--concurrency=1")
    dispatch_id = run_and_lose(unattended, ledger, worker, gates.new(), times=3)
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "failed", PATIENCE)
    error = ledger.dispatch(dispatch_id).error
    assert error == "the worker process was lost" or error.endswith(" ran out"), "Celery may not see who was lost"
