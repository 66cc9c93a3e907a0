"""The reaper recovers from lost workers, lost messages, failed attempts and an unavailable message broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

from broker_django.models import AttemptRecord
from tests import servers
from tests.acceptance.conftest import ALIAS, PATIENCE, broker_worker, done, plain_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.acceptance.conftest import Gates, Ledger, Site, StartSite, StartWorker


def attempts(dispatch_id: str) -> list[str]:
    """Returns the errors of all attempts except the last."""
    ended = AttemptRecord.objects.using(ALIAS).filter(dispatch=dispatch_id).order_by("number")
    return list(ended.values_list("error", flat=True))


def run_and_kill(site: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker, queue: str) -> tuple[str, str]:
    """Run a dispatch and kill its worker with all processes. Returns the ids of the dispatch and its gate."""
    worker = start_worker(broker_worker, "--concurrency=1")
    gate = gates.new()
    with site.client() as client:
        dispatch_id = client.post(f"/gate/{gate}/", headers={"X-Queue": queue}).json()["id"]
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "running")
    worker.container.kill_all()
    return dispatch_id, gate


@pytest.mark.parametrize("command", [broker_worker, plain_worker])
def test_another_worker_runs_the_dispatches_of_a_killed_one(
    unattended: Site,
    ledger: Ledger,
    gates: Gates,
    start_worker: StartWorker,
    command: Callable[..., list[str]],
) -> None:
    dispatch_id, gate = run_and_kill(unattended, ledger, gates, start_worker, "bulk")
    gates.open(gate)
    start_worker(command, "--concurrency=1")
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "succeeded")
    assert ledger.executions(dispatch_id) == 1
    [error] = attempts(dispatch_id)
    assert error.startswith("the lease of ")


def test_a_dispatch_delivered_at_most_once_fails_if_its_worker_is_lost(
    unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    dispatch_id, gate = run_and_kill(unattended, ledger, gates, start_worker, "once")
    gates.open(gate)
    start_worker(broker_worker, "--concurrency=1")
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "failed")
    assert "ran out; it is not run again, for the queue delivers at most once" in ledger.dispatch(dispatch_id).error
    assert ledger.executions(dispatch_id) == 0


def wait_until_renewed(ledger: Ledger, dispatch_id: str, times: int) -> None:
    """Wait until the lease of the running dispatch was renewed this often."""
    seen = {ledger.dispatch(dispatch_id).due_at}

    def renewed() -> bool:
        seen.add(ledger.dispatch(dispatch_id).due_at)
        return len(seen) > times

    wait_until(renewed)


def test_a_view_that_runs_for_longer_than_a_lease_keeps_it(client: httpx.Client, gates: Gates, ledger: Ledger) -> None:
    gate = gates.new()
    accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "bulk"})
    dispatch_id = accepted.json()["id"]
    wait_until(lambda: ledger.dispatch(dispatch_id).state == "running")
    wait_until_renewed(ledger, dispatch_id, 5)
    gates.open(gate)
    assert done(client, accepted)["attempts"] == 1


def test_a_message_that_was_lost_is_published_again(
    redis_broker: servers.MessageBroker, unattended: Site, ledger: Ledger, start_worker: StartWorker
) -> None:
    with unattended.client() as client:
        lost = client.post("/pay/").json()["id"]
        redis.Redis.from_url(redis_broker.unattended_url).delete("payment")
        overtaking = client.post("/pay/").json()["id"]
    start_worker(broker_worker, "--concurrency=1")
    wait_until(lambda: ledger.dispatch(overtaking).state == "succeeded")
    wait_until(lambda: ledger.dispatch(lost).state == "succeeded")
    assert ledger.dispatch(lost).published_at > ledger.dispatch(lost).accepted_at
    assert [ledger.executions(each) for each in (lost, overtaking)] == [1, 1]


def test_a_dispatch_behind_a_backlog_is_not_published_again(
    unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    gate = gates.new()
    with unattended.client() as client:
        held = client.post(f"/gate/{gate}/", headers={"X-Queue": "bulk"}).json()["id"]
        waiting = client.post("/note/waits/", headers={"X-Queue": "bulk"}).json()["id"]
    worker = start_worker(broker_worker, "--concurrency=1")
    wait_until(lambda: ledger.dispatch(held).state == "running")
    wait_until_renewed(ledger, held, 8)
    gates.open(gate)
    wait_until(lambda: ledger.dispatch(waiting).state == "succeeded")
    assert "published again" not in worker.logs()
    assert ledger.dispatch(waiting).published_at == ledger.dispatch(waiting).accepted_at


def test_a_refused_dispatch_runs_when_the_message_broker_is_back(
    alone: None, start_site: StartSite, ledger: Ledger, start_worker: StartWorker
) -> None:
    with servers.valkey() as broker:
        site = start_site(BROKER_URL=broker.url)
        site.process.ready()
        start_worker(broker_worker, "--concurrency=1", BROKER_URL=broker.url)
        broker.process.kill()
        with site.client() as client:
            ids = [client.post("/pay/").json()["id"] for _ in range(20)]
        assert {row.state for row in ledger.dispatches(ids)} == {"queued"}
        broker.process.start()
        wait_until(lambda: {row.state for row in ledger.dispatches(ids)} == {"succeeded"})
    assert {ledger.executions(each) for each in ids} == {1}


def test_failed_attempts_are_repeated_and_recorded(client: httpx.Client, ledger: Ledger) -> None:
    accepted = client.post("/flaky/2/", headers={"X-Queue": "bulk"})
    document = done(client, accepted)
    assert (document["state"], document["attempts"]) == ("succeeded", 3)
    assert client.get(document["links"]["response"]).text == "attempt 3"
    assert attempts(document["id"]) == ["the view answered 503", "RuntimeError"]
    first, second = AttemptRecord.objects.using(ALIAS).filter(dispatch=document["id"]).order_by("number")
    assert (second.started_at - first.ended_at).total_seconds() >= 1, "as the view asked"
    assert ledger.executions(document["id"]) == 3


@pytest.mark.parametrize(("queue", "runs"), [("bulk", 3), ("once", 1)])
def test_a_dispatch_that_keeps_failing_fails_with_its_last_response(
    client: httpx.Client, ledger: Ledger, queue: str, runs: int
) -> None:
    document = done(client, client.post("/flaky/9/", headers={"X-Queue": queue}))
    assert (document["state"], document["error"]) == ("failed", "the view answered 503")
    assert client.get(document["links"]["response"]).status_code == 503
    assert ledger.executions(document["id"]) == runs
    assert len(ledger.dispatch(document["id"]).sealed), "the request is kept"


def test_a_response_that_the_result_store_does_not_take_is_kept_and_handed_over(
    unattended: Site, start_site: StartSite, ledger: Ledger, start_worker: StartWorker
) -> None:
    with servers.valkey() as store:
        site = start_site(BROKER_URL=unattended.process.env["BROKER_URL"], RESULT_BACKEND=store.url)
        site.process.ready()
        worker = start_worker(broker_worker, "--concurrency=1", RESULT_BACKEND=store.url)
        worker.wait_for_log(" ready.")
        store.process.kill()
        with site.client() as client:
            accepted = client.post("/note/kept/", headers={"X-Queue": "payment"})
            document = done(client, accepted)
            assert document["state"] == "succeeded"
            response = document["links"]["response"]
            assert client.get(response).text == "kept"
            store.process.start()
            start_worker(broker_worker, "--concurrency=1", RESULT_BACKEND=store.url)  # housekeeping runs at once
            wait_until(lambda: ledger.dispatch(document["id"]).kept_response is None, 2 * PATIENCE)
            assert client.get(response).text == "kept"
