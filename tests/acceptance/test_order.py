"""Which dispatch a free worker runs next."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import broker_worker, plain_worker
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker
    from tests.servers import MessageBroker

QUEUES = ("payment", "realtime", "bulk")
ONE_AT_A_TIME = "--pool=solo"


def send(client: httpx.Client, queue: str, number: int) -> list[str]:
    """Returns the ids of this many dispatches, accepted on this queue."""
    responses = [client.get("/echo/", headers={"X-Queue": queue}) for _ in range(number)]
    assert {response.status_code for response in responses} == {202}
    return [response.json()["id"] for response in responses]


def wait_for_all(ledger: Ledger, ids: list[str]) -> None:
    wait_until(lambda: {row.state for row in ledger.dispatches(ids)} == {"succeeded"})


@pytest.mark.parametrize("command", [broker_worker, plain_worker])
def test_queues_get_their_shares_while_all_have_work(
    redis_broker: MessageBroker,
    unattended: Site,
    ledger: Ledger,
    start_worker: StartWorker,
    command: Callable[..., list[str]],
) -> None:
    with unattended.client() as client:
        ids = [dispatch_id for queue in reversed(QUEUES) for dispatch_id in send(client, queue, 20)]
    start_worker(command, ONE_AT_A_TIME)
    wait_for_all(ledger, ids)
    order = [row.queue for row in ledger.dispatches(ids)]
    for share in (order[:10], order[10:20], order[20:30]):
        assert Counter(share) == {"payment": 6, "realtime": 3, "bulk": 1}, " ".join(order)


def test_a_payment_overtakes_a_backlog(
    redis_broker: MessageBroker, unattended: Site, ledger: Ledger, gates: Gates, start_worker: StartWorker
) -> None:
    gate = gates.new()
    with unattended.client() as client:
        first = client.get(f"/gate/{gate}/", headers={"X-Queue": "bulk"}).json()["id"]
        backlog = send(client, "bulk", 200)
        start_worker(plain_worker, ONE_AT_A_TIME)
        wait_until(lambda: ledger.dispatch(first).state == "running")
        (payment,) = send(client, "payment", 1)
    gates.open(gate)
    wait_until(lambda: ledger.dispatch(payment).state == "succeeded")
    started = [str(row.pk) for row in ledger.dispatches([*backlog, payment]) if row.started_at]
    assert started[0] == payment


def test_every_queue_is_served(unattended: Site, ledger: Ledger, start_worker: StartWorker) -> None:
    with unattended.client() as client:
        ids = [dispatch_id for queue in QUEUES for dispatch_id in send(client, queue, 5)]
    start_worker(plain_worker, ONE_AT_A_TIME)
    wait_for_all(ledger, ids)
