"""Dispatches from a process without a request."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.acceptance.conftest import broker_worker
from tests.containers import ROOT
from tests.processes import wait_until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Ledger, Site, StartWorker
    from tests.servers import MessageBroker

COMMAND = """
import broker_django
from django.contrib.auth.models import User
from django.db import transaction

ada = User.objects.get(username="ada")
with transaction.atomic():
    print(broker_django.dispatch("/pay-with-csrf", method="POST", data={"amount": 7}, user=ada, queue="payment").id)
print(broker_django.dispatch("/echo/", json={"a": 1}, user=ada.pk, queue="bulk").id)
"""


def test_a_worker_runs_the_dispatch_of_a_command(
    unattended: Site,
    ledger: Ledger,
    start_worker: StartWorker,
    message_broker: MessageBroker,
    environment: dict[str, str],
) -> None:
    variables = {"SSL_REDIRECT": "1"}
    start_worker(broker_worker, "--concurrency=1", **variables)
    shell = [sys.executable, "-m", "django", "shell", "-c", COMMAND]
    env = {**environment, **variables, "BROKER_URL": message_broker.unattended_url}
    finished = subprocess.run(shell, check=True, cwd=ROOT, env=env, capture_output=True, text=True)
    ids = finished.stdout.split()[-2:]
    wait_until(lambda: all(ledger.dispatch(each).current_state.done for each in ids))
    ended = [(each.state, each.response_status, each.error) for each in map(ledger.dispatch, ids)]
    assert ended == [("succeeded", 200, ""), ("succeeded", 200, "")]
