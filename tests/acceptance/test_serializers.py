"""Projects whose workers do not accept JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import broker_worker, done

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site, StartSite, StartWorker
    from tests.servers import MessageBroker


@pytest.mark.parametrize("serializer", ["yaml", "pickle"])
def test_dispatches_run_in_workers_that_accept_no_json(
    serializer: str,
    unattended: Site,
    start_site: StartSite,
    start_worker: StartWorker,
    message_broker: MessageBroker,
) -> None:
    variables = {"ACCEPT_CONTENT": serializer, "C_FORCE_ROOT": "1", "BROKER_URL": message_broker.unattended_url}
    site, worker = start_site("wsgi", **variables), start_worker(broker_worker, "--concurrency=1", **variables)
    site.process.ready()
    worker.container.ready()
    with site.client() as client:
        document = done(client, client.post("/pay/", data={"amount": "7"}))
        assert document["state"] == "succeeded"
        assert client.get(document["links"]["response"]).json()["paid"] == "7"
