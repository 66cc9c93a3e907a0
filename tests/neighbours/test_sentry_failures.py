"""Each way in which the ledger ends a dispatch as failed is one event, and no event has a token."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone

sentry_sdk = pytest.importorskip("sentry_sdk")

from sentry_sdk.integrations.logging import LoggingIntegration  # noqa: E402
from sentry_sdk.transport import Transport  # noqa: E402

from broker_core.message import RequestMessage  # noqa: E402
from broker_django.conf import conf  # noqa: E402
from broker_django.ledger import ledger  # noqa: E402
from broker_django.messaging import sealing  # noqa: E402
from broker_django.models import DispatchRecord  # noqa: E402
from broker_django.operations import sentry  # noqa: E402
from tests.integration.replaying.test_revocation import begin, held, nothing_revoked  # noqa: E402, F401 - a fixture for all
from tests.rows import accept, as_dispatch, as_request  # noqa: E402
from workers import tasks  # noqa: E402
from workers.recovery import former_queues, unreadable  # noqa: E402
from workers.recovery.reaper import Reaper  # noqa: E402
from workers.replaying import error_reports  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.django_db

NOTIFICATIONS = "broker_django.messaging.notifications"
"""The logger that warns of an unavailable Redis, as here."""

TOKEN = f"{uuid.uuid4().hex}-1abcde.{'s' * 43}"


class Nowhere(Transport):
    def capture_envelope(self, envelope: Any) -> None:
        pass


@pytest.fixture
def sent(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """The events as the project's own `before_send` sees them."""
    events: list[dict[str, Any]] = []

    def keep(event: Any, _hint: Any) -> None:
        events.append(event)

    level = getattr(request, "param", logging.ERROR)
    logs = LoggingIntegration(event_level=level)
    options = {"default_integrations": False, "integrations": [logs], "transport": Nowhere}
    client = sentry_sdk.Client("https://key@127.0.0.1/1", before_send=keep, traces_sample_rate=1.0, **options)
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(client)
        sentry.watch()
        yield events


def accepted(queue: str = "bulk", **values: Any) -> DispatchRecord:
    now = timezone.now()
    record = DispatchRecord(
        **{
            "pk": uuid.uuid4(),
            "queue": queue,
            "method": "POST",
            "path": "/orders/5/",
            "route": "/orders/<int:pk>/",
            "host": "shop.example",
            "accepted_at": now,
            "published_at": now,
            **values,
        }
    )
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/orders/5/", "HTTP_HOST": "shop.example"}
    record.sealed = values.get("sealed", sealing.seal_request(RequestMessage(environ), str(record.pk), queue))
    accept(record)
    return record


def claimed(record: DispatchRecord, at: Any = None) -> int:
    return ledger.claim(record.pk, conf.queues[record.queue], "worker", at)


def spent() -> DispatchRecord:
    """No attempt is left, because its queue now allows fewer."""
    return accepted(attempts=conf.queues["bulk"].starts)


def runs_spent() -> DispatchRecord:
    record = spent()
    given = (sealing.task_argument(as_request(record)),)
    tasks.replay.apply(args=given, task_id=str(record.pk), routing_key="bulk", throw=False)
    return record


def former_queue() -> DispatchRecord:
    record = accepted("former")
    former_queues._abandon(record.pk, "the queue 'former' is not configured any more", timezone.now())
    return record


def no_key() -> DispatchRecord:
    record = accepted(sealed=b"sealed by nobody")
    unreadable._fail(as_dispatch(record), conf.queues["bulk"], "the request cannot be opened", timezone.now())
    return record


def no_key_and_no_attempt() -> DispatchRecord:
    record = accepted(sealed=b"sealed by nobody", attempts=conf.queues["bulk"].starts)
    unreadable._fail(as_dispatch(record), conf.queues["bulk"], "the request cannot be opened", timezone.now())
    return record


def lapsed_lease() -> DispatchRecord:
    starts = conf.queues["bulk"].starts
    record = accepted(attempts=starts, state="running", started_at=timezone.now(), due_at=timezone.now())
    later = timezone.now() + timedelta(hours=1)
    reaper = Reaper(lambda: later)
    reaper._steady_since, reaper._last_pass = later - timedelta(minutes=30), later
    for _ in reaper._lapsed(later):
        pass
    return record


def lost_process() -> DispatchRecord:
    record = accepted(attempts=conf.queues["bulk"].starts - 1)
    request = held(record)
    begin(record, request)
    request._update_ledger(request._lost)
    return record


@pytest.mark.parametrize("sent", [logging.ERROR, logging.WARNING], indirect=True, ids=["errors", "warnings"])
@pytest.mark.parametrize("end", [runs_spent, former_queue, no_key, no_key_and_no_attempt, lapsed_lease, lost_process])
def test_it_is_one_event(sent: list[dict[str, Any]], end: Callable[[], DispatchRecord]) -> None:
    record = end()
    record.refresh_from_db()
    assert record.state == "failed"
    [event] = [each for each in sent if each.get("logger") != NOTIFICATIONS]
    assert (event["message"], event["level"]) == (record.error, "error")
    assert event["transaction"] == "/orders/{pk}/"
    assert event["request"]["method"] == "POST"
    assert event["request"]["url"] == "http://shop.example/orders/5/"
    assert event["tags"]["dispatch.id"] == str(record.pk)


def test_an_error_of_the_task_itself_is_one_event_with_its_traceback(sent: list[dict[str, Any]]) -> None:
    record = accepted("bulk")
    for _ in range(conf.queues["bulk"].starts):
        DispatchRecord.objects.filter(pk=record.pk).update(due_at=None)
        attempt = claimed(record)
        tasks.replay.push_request(id=str(record.pk), attempt=attempt)
        try:
            raise MemoryError("of the broker")
        except MemoryError as error:
            tasks.replay.on_failure(error, str(record.pk), (), {}, None)
        finally:
            tasks.replay.pop_request()
    record.refresh_from_db()
    assert record.state == "failed"
    [event] = sent
    assert event["exception"]["values"][-1]["value"] == "of the broker"
    assert event["exception"]["values"][-1]["stacktrace"]["frames"]


def test_an_outage_is_reported_as_ever(sent: list[dict[str, Any]]) -> None:
    logging.getLogger("workers.recovery.reaper").error("The reaper failed")
    assert [event["logentry"]["message"] for event in sent] == ["The reaper failed"]


def test_an_error_of_sentrys_sdk_loses_no_outcome(sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentry_sdk, "capture_event", None)
    record = former_queue()
    with error_reports.attempt(record.pk, "bulk", 1, {}):
        error_reports.report_failure("broken")
    record.refresh_from_db()
    assert (record.state, sent) == ("failed", [])


# Tokens


def test_no_event_has_a_token(sent: list[dict[str, Any]]) -> None:
    with sentry_sdk.new_scope() as scope:
        scope.set_transaction_name(f"/broker/tasks/{TOKEN}/")
        scope.add_event_processor(lambda event, _hint: {**event, "request": {"url": f"/broker/tasks/{TOKEN}/"}})
        sentry_sdk.add_breadcrumb(message=f"GET /broker/tasks/{TOKEN}/")
        try:
            path = f"/broker/tasks/{TOKEN}/"
            raise ValueError(f"not found: {path}")
        except ValueError as error:
            sentry_sdk.capture_exception(error)
    [event] = sent
    assert TOKEN.partition(".")[0] in str(event)
    assert "s" * 43 not in str(event)


def test_before_send_of_the_project_is_called_once(sent: list[dict[str, Any]]) -> None:
    sentry_sdk.capture_message("one")
    sentry_sdk.capture_message("two")
    assert [event["message"] for event in sent] == ["one", "two"]
