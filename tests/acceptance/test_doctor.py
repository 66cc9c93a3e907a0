"""`broker_doctor` beside the site's own processes."""

from __future__ import annotations

import os
import sys
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from broker_core.dispatches import State
from broker_django.models import DispatchRecord
from broker_django.ports import any_port
from tests import servers
from tests.acceptance.conftest import ALIAS
from tests.processes import finished

if TYPE_CHECKING:
    from tests.acceptance.conftest import Ledger, Site, Worker


def doctor(environment: dict[str, str], **variables: str) -> tuple[int, str]:
    process = finished([sys.executable, "-m", "django", "broker_doctor"], {**os.environ, **environment, **variables})
    return process.returncode, process.stdout + process.stderr


@pytest.fixture(autouse=True)
def nothing_unfinished(ledger: Ledger) -> None:
    """What other tests left waiting would need attention."""
    DispatchRecord.objects.using(ALIAS).filter(state__in=[State.QUEUED, State.RUNNING]).delete()


def test_all_is_well_with_a_worker_on_every_queue(environment: dict[str, str], worker: Worker) -> None:
    status, output = doctor(environment)
    assert status == 0, output
    for subject in ("message broker", "result store", f"clock of {worker.hostname()}"):
        assert f"ok   {subject}: " in output
    for queue in ("payment", "realtime", "bulk"):
        assert f"ok   queue {queue}: served by {worker.hostname()}" in output


def test_queues_without_a_worker_are_named(environment: dict[str, str], unattended: Site) -> None:
    url = unattended.process.env["BROKER_URL"]
    status, output = doctor(environment, BROKER_URL=url)
    assert status == 1
    assert "ok   message broker: " in output
    assert "FAIL queue payment: no worker answers for it" in output
    assert "broker_worker --queues payment" in output


def test_a_message_broker_that_is_down_is_why_dispatches_wait(environment: dict[str, str], ledger: Ledger) -> None:
    long_ago = timezone.now() - timedelta(minutes=5)
    DispatchRecord.objects.using(ALIAS).create(
        id=uuid.uuid4(), queue="bulk", state=State.QUEUED, accepted_at=long_ago, sealed=b""
    )
    scheme = "amqp" if servers.BROKER.endswith("rabbitmq") else "redis"
    status, output = doctor(environment, BROKER_URL=f"{scheme}://127.0.0.1:{any_port()}/")
    assert status == 1
    assert "FAIL message broker: " in output
    assert "Start it, or mend CELERY_BROKER_URL" in output
    assert "FAIL backlog of bulk: 1 dispatches wait" in output
    assert "the message broker is down" in output
