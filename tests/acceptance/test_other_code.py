"""Workers with other code or middleware than the web processes lose no dispatches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.conftest import ALIAS, PATIENCE, broker_worker, plain_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from broker_django.models import DispatchRecord
    from tests.acceptance.conftest import Ledger, Site, StartWorker

OTHER = {"URLCONF": "tests.acceptance.other_urls"}


def accept(site: Site, path: str, queue: str, content: bytes = b"") -> str:
    with site.client() as client:
        response = client.post(path, headers={"X-Queue": queue, "Prefer": "respond-async"}, content=content)
    assert response.status_code == 202, response.text
    return response.json()["id"]


@pytest.mark.parametrize("queue", ["bulk", "once"])
@pytest.mark.parametrize("path", ["/note/x/", "/flaky/0/"])
def test_a_dispatch_of_newer_code_is_handed_back_until_a_worker_knows_its_view(
    unattended: Site, ledger: Ledger, start_worker: StartWorker, path: str, queue: str
) -> None:
    older = start_worker(plain_worker, **OTHER)
    dispatch_id = accept(unattended, path, queue)
    wait_until(lambda: ledger.dispatch(dispatch_id).attempts, PATIENCE)
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "queued", PATIENCE)
    assert ledger.executions(dispatch_id) == 0
    start_worker(plain_worker)
    older.container.kill_all()
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "succeeded", PATIENCE)
    record = ledger.dispatch(dispatch_id)
    assert (record.response_status, ledger.executions(dispatch_id)) == (200, 1)
    assert "the view was not reached" in record.ended_attempts.using(ALIAS).first().error


@pytest.mark.parametrize("queue", ["bulk", "once"])
def test_a_worker_without_the_storage_leaves_large_requests_to_another(
    unattended: Site, ledger: Ledger, start_worker: StartWorker, tmp_path: Path, queue: str
) -> None:
    blind = start_worker(plain_worker, MEDIA=str(tmp_path))
    dispatch_id = accept(unattended, "/note/x/", queue, bytes(600_000))
    wait_until(lambda: ledger.dispatch(dispatch_id).ended_attempts.using(ALIAS).exists(), PATIENCE)
    record = ledger.dispatch(dispatch_id)
    assert (record.state, bool(record.sealed_file), ledger.executions(dispatch_id)) == ("queued", True, 0)
    start_worker(plain_worker)
    blind.container.kill_all()
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "succeeded", PATIENCE)
    assert ledger.executions(dispatch_id) == 1


@pytest.mark.parametrize(("path", "reason"), [("/note/x/", "nowhere"), ("/flaky/0/", "tests.acceptance.views.gate")])
def test_a_dispatch_without_a_worker_that_knows_its_view_becomes_a_dead_letter(
    unattended: Site, ledger: Ledger, start_worker: StartWorker, path: str, reason: str
) -> None:
    older = start_worker(plain_worker, **OTHER)
    dispatch_id = accept(unattended, path, "bulk")
    ledger.hand_back_long_ago(dispatch_id)
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "failed", PATIENCE)
    record = ledger.dispatch(dispatch_id)
    assert "the view was not reached" in record.error and reason in record.error
    assert (record.response_status, bool(record.sealed)) == (500, True)
    older.container.kill_all()


@pytest.mark.parametrize(
    ("variables", "answered"),
    [
        ({"OUTER_MIDDLEWARE": "tests.acceptance.middleware.redirecting"}, 302),
        ({"OUTER_MIDDLEWARE": "tests.acceptance.middleware.forgetful"}, 404),
        ({"OUTER_MIDDLEWARE": "tests.acceptance.middleware.locked_down"}, 200),
        ({"OUTER_MIDDLEWARE": "tests.acceptance.middleware.Closed"}, 503),
        ({"SSL_REDIRECT": "1"}, 301),
    ],
    ids=["log in", "not found", "a page that asks for a password", "maintenance", "TLS"],
)
def test_a_response_of_middleware_instead_of_the_view_is_no_success(
    unattended: Site, ledger: Ledger, start_worker: StartWorker, variables: dict[str, Any], answered: int
) -> None:
    start_worker(plain_worker, **variables)
    dispatch_id = accept(unattended, "/note/x/", "bulk")
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "failed", PATIENCE)
    record = ledger.dispatch(dispatch_id)
    assert (record.error, record.response_status) == (
        f"the view was not reached: a middleware answered {answered}",
        answered,
    )
    assert (record.attempts, ledger.executions(dispatch_id)) == (3, 0)
    with unattended.client() as client:
        location = f"/broker/tasks/{_token(record)}/response/"
        if variables.get("OUTER_MIDDLEWARE", "").endswith("Closed"):
            assert client.get(location).headers["X-Reached"] == "False"


@pytest.mark.parametrize(
    ("command", "options"),
    [(plain_worker, ["--pool=solo"]), (plain_worker, ["--concurrency=1"]), (broker_worker, ["--concurrency=1"])],
    ids=["solo", "prefork", "broker_worker"],
)
@pytest.mark.parametrize(
    "variables",
    [{"OUTER_MIDDLEWARE": "tests.nowhere.Gone"}, {"URLCONF": "tests.nowhere_urls"}],
    ids=["middleware", "URLs"],
)
def test_a_worker_that_cannot_reach_its_views_does_not_start(
    unattended: Site,
    ledger: Ledger,
    start_worker: StartWorker,
    command: Any,
    options: list[str],
    variables: dict[str, str],
) -> None:
    dispatch_id = accept(unattended, "/note/x/", "once")
    worker = start_worker(command, *options, **variables).container
    wait_until(lambda: worker.status == "exited", PATIENCE)
    assert worker.exit_status not in (0, None)
    assert "No module named 'tests.nowhere" in worker.logs()
    assert (ledger.dispatch(dispatch_id).state, ledger.dispatch(dispatch_id).attempts) == ("queued", 0)


def _token(record: DispatchRecord) -> str:
    from broker_django.ledger import tokens

    return tokens.issue(record.pk, record.accepted_at)
