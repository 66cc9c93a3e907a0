"""A queue at its limit refuses requests until a worker serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import broker_worker, done
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.acceptance.conftest import Ledger, Site, StartSite, StartWorker
    from tests.servers import MessageBroker

DEPTH = 5


@pytest.fixture(params=["asgi", "wsgi"])
def narrow_site(
    request: pytest.FixtureRequest, message_broker: MessageBroker, unattended: Site, start_site: StartSite
) -> Site:
    """A site with a low limit for payments, and no worker."""
    site = start_site(request.param, BROKER_URL=message_broker.unattended_url, PAYMENT_DEPTH=str(DEPTH))
    site.process.ready()
    return site


@pytest.fixture
def client(narrow_site: Site, ledger: Ledger) -> Iterator[httpx.Client]:
    with narrow_site.client() as client:
        yield client
    ledger.forget_what_waits("payment")


def test_a_full_queue_refuses_until_a_worker_has_come(
    client: httpx.Client, ledger: Ledger, start_worker: StartWorker
) -> None:
    ledger.forget_what_waits("payment")
    accepted = [client.post("/pay/") for _ in range(DEPTH)]
    assert {response.status_code for response in accepted} == {202}

    refused = client.post("/pay/")
    assert refused.status_code == 503
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["type"].endswith("http-problem-types#temporary-reduced-capacity")
    assert 1 <= int(refused.headers["Retry-After"]) <= 3_600
    assert client.post("/note/later/", headers={"X-Queue": "bulk"}).status_code == 503, "the lower class, too"
    assert client.post("/immediately/").status_code == 200, "what is not queued is answered"

    start_worker(broker_worker)
    wait_until(lambda: client.post("/pay/").status_code == 202)
    assert {done(client, response)["state"] for response in accepted} == {"succeeded"}


def test_an_expired_dispatch_is_not_run(unattended: Site, ledger: Ledger, start_worker: StartWorker) -> None:
    with unattended.client() as client:
        fleeting = client.post("/note/fleeting/", headers={"X-Queue": "fleeting"})
        wait_until(lambda: client.get(fleeting.headers["Location"]).json()["state"] == "expired")
        start_worker(broker_worker).wait_for_log(f"Dispatch {fleeting.json()['id']} is dropped")
        document = client.get(fleeting.headers["Location"]).json()
    assert (document["state"], document["attempts"]) == ("expired", 0)
    assert ledger.executions(document["id"]) == 0
