"""A queue that reached `max_published`: the next dispatch waits in the ledger."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import override_settings
from django.utils import timezone

from broker_core.dispatches import transitions
from broker_django.admission import acceptance
from broker_django.messaging.publish_limits import PublishLimits
from broker_django.models import DispatchRecord
from tests.rows import as_request

BOUND = {"QUEUES": {"bulk": {"max_published": 10}}}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        self.now += 1  # it is always time to ask again
        return self.now


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many messages of each queue wait. This process has found the queue `bulk` full."""
    waiting = {"bulk": 0}
    limits = PublishLimits(Clock())
    limits.of("bulk").count_published(lambda: 10)
    monkeypatch.setattr(acceptance, "publish_limits", limits)
    monkeypatch.setattr(acceptance, "waiting_messages", lambda policy: waiting[policy.celery_queue])
    with override_settings(REQUEST_BROKER=BOUND):
        assert is_held(written()), "it is found to be full"
        yield waiting


def dispatch(**moments: Any) -> DispatchRecord:
    now = timezone.now()
    given = {"accepted_at": now, "published_at": now, **moments}
    return DispatchRecord(queue="bulk", method="GET", path="/", route="/", sealed=b"sealed", **given)


def written() -> DispatchRecord:
    return DispatchRecord.objects.get(pk=acceptance.write(as_request(dispatch())).dispatch.id)


def is_held(record: DispatchRecord) -> bool:
    record.refresh_from_db()
    return record.due_at is not None and record.published_at is None


def hold(number: int, seconds: float) -> None:
    """Creates this many dispatches that have been due for this long."""
    due = timezone.now() - timedelta(seconds=seconds)
    DispatchRecord.objects.bulk_create(dispatch(published_at=None, due_at=due) for _ in range(number))


def test_a_queue_accepts_messages_again_although_some_were_held_before(waiting: dict[str, int]) -> None:
    hold(50, seconds=0.5)
    assert not is_held(written())


def test_overdue_dispatches_are_published_first(waiting: dict[str, int]) -> None:
    hold(50, seconds=5)
    assert is_held(written())


def test_locked_rows_do_not_block_others(waiting: dict[str, int]) -> None:
    hold(transitions.A_FEW, seconds=300)
    assert not is_held(written())


def test_the_message_broker_is_asked_before(waiting: dict[str, int]) -> None:
    waiting["bulk"] = 5
    assert is_held(written())
    waiting["bulk"] = 4
    assert not is_held(written())


def test_a_dispatch_waits_if_the_ledger_cannot_be_read(waiting: dict[str, int]) -> None:
    def refuse(*_args: Any) -> Any:
        raise OperationalError("the disk is full")

    with connection.execute_wrapper(refuse):
        assert acceptance._must_wait(dispatch())
