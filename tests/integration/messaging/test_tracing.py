"""The fields of a trace in the ledger, in every message and in the view, without any tracing package."""

from __future__ import annotations

import json
import sys
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from django.test import Client, override_settings
from django.utils import timezone

import broker_django
from broker_core.dispatches import Outcome, Run
from broker_core.http.hop_by_hop import connection_options
from broker_core.message import RequestMessage
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging import publishing, sealing, tracing
from broker_django.models import DispatchRecord
from tests import servers
from tests.rows import accept, as_request
from workers.config import configure
from workers.recovery.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRACE = "0af7651916cd43dd8448eb211c80319c"
FIELDS = {
    "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    "tracestate": "congo=t61rcWkgMzE",
    "sentry-trace": f"{TRACE}-b7ad6b7169203331-1",
    "baggage": "userId=alice,sentry-trace_id=771a43a4192642f0b136d5159a501700",
}


@pytest.fixture(autouse=True)
def nothing_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide tracing packages that other tests of this process have imported."""
    for name in ("opentelemetry.trace", "sentry_sdk"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def server() -> Iterator[str]:
    with servers.valkey() as broker:
        yield broker.url


@pytest.fixture
def messages(server: str, own_app: Celery) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """The headers of the messages that wait in a queue."""
    app = Celery("project", set_as_current=False)
    app.config_from_object({"broker_url": server})
    configure(app)
    with redis.Redis.from_url(server) as client:
        yield lambda queue: [json.loads(each)["headers"] for each in client.lrange(queue, 0, -1)][::-1]
    app.close()


def traced(headers: dict[str, Any]) -> dict[str, Any]:
    assert headers["headers"] == {name: headers[name] for name in FIELDS if name in headers}
    return headers["headers"]


def get(path: str, **headers: str) -> DispatchRecord:
    dispatch_id = Client().get(path, headers={**FIELDS, **headers}).json()["id"]
    return DispatchRecord.objects.get(pk=dispatch_id)


# The ledger


@pytest.mark.usefixtures("everything_accepted")
def test_the_ledger_stores_the_fields_of_the_request() -> None:
    record = get("/echo/")
    assert tracing.headers_of(record) == FIELDS
    assert record.trace_id == TRACE


@pytest.mark.usefixtures("everything_accepted")
def test_a_request_without_a_trace_keeps_nothing() -> None:
    record = DispatchRecord.objects.get(pk=Client().get("/echo/").json()["id"])
    assert (record.trace_fields, record.trace_id) == (None, "")


@pytest.mark.usefixtures("everything_queued")
def test_the_view_sees_the_original_fields() -> None:
    seen = Client().get("/echo/", headers=FIELDS).json()["headers"]
    assert {name: seen[name.title()] for name in FIELDS} == FIELDS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("traceparent", f"00-{'0' * 32}-b7ad6b7169203331-01"),
        ("traceparent", f"00-{TRACE}-{'0' * 16}-01"),
        ("traceparent", f"ff-{TRACE}-b7ad6b7169203331-01"),
        ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01-more"),
        ("traceparent", f"00-{TRACE.upper()}-b7ad6b7169203331-01"),
        ("traceparent", f"01-{TRACE}-b7ad6b7169203331-01-{'x' * 300}"),
        ("tracestate", "x=" + "y" * 600),
        ("sentry-trace", "0-0"),
        ("sentry-trace", f"{TRACE}-b7ad6b7169203331-1-1"),
        ("baggage", "a=" + "b" * 9_000),
        ("baggage", "a=\x1b[31m"),
        ("baggage", "a=\xff"),
    ],
)
def test_malformed_or_too_long_trace_fields_are_dropped(name: str, value: str) -> None:
    environ = {f"HTTP_{each.upper().replace('-', '_')}": FIELDS[each] for each in FIELDS}
    kept = tracing.fields_of({**environ, f"HTTP_{name.upper().replace('-', '_')}": value})
    gone = {name, "tracestate"} if name == "traceparent" else {name}
    assert kept == {each: FIELDS[each] for each in FIELDS if each not in gone}


def test_a_later_version_of_traceparent_is_accepted() -> None:
    value = f"01-{TRACE}-b7ad6b7169203331-01-what-the-future-brings"
    fields = tracing.fields_of({"HTTP_TRACEPARENT": value})
    assert (fields, tracing.trace_id(fields)) == ({"traceparent": value}, TRACE)


def test_sentrys_trace_id_is_accepted() -> None:
    assert tracing.trace_id({"sentry-trace": FIELDS["sentry-trace"]}) == TRACE


@pytest.mark.parametrize("name", [*FIELDS, "b3", "x-b3-traceid", "uber-trace-id", "x-cloud-trace-context"])
def test_a_connection_field_cannot_strip_the_trace_fields(name: str) -> None:
    assert name not in connection_options(f"close, {name}")


def test_members_of_baggage_that_are_not_sentrys_travel_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sentry = SimpleNamespace(
        is_initialized=lambda: True,
        get_traceparent=lambda: f"{'a' * 32}-{'b' * 16}-1",
        get_baggage=lambda: "sentry-trace_id=new",
    )
    monkeypatch.setitem(sys.modules, "sentry_sdk", sentry)
    fields = tracing.fields_of({"HTTP_BAGGAGE": "a=1,sentry-trace_id=old, b=2", "HTTP_SENTRY_TRACE": "old"})
    assert fields == {"sentry-trace": f"{'a' * 32}-{'b' * 16}-1", "baggage": "sentry-trace_id=new,a=1, b=2"}
    long = tracing.fields_of({"HTTP_BAGGAGE": f"a={'1' * 8_180}"})
    assert long["baggage"] == "sentry-trace_id=new"


@pytest.mark.usefixtures("everything_accepted")
@pytest.mark.parametrize("given", ["request", "message"])
def test_a_request_dispatched_from_code_belongs_to_the_trace_of_its_origin(given: str, rf: Any) -> None:
    environ = {f"HTTP_{each.upper().replace('-', '_')}": FIELDS[each] for each in FIELDS}
    request: Any = rf.get("/echo/", headers=FIELDS)
    if given == "message":
        request = RequestMessage(
            {"REQUEST_METHOD": "GET", "PATH_INFO": "/echo/", "SERVER_NAME": "testserver"} | environ
        )
    record = broker_django.dispatch(request, queue="bulk")
    assert tracing.headers_of(DispatchRecord.objects.get(pk=record.id)) == FIELDS


# Messages


def accepted(**values: Any) -> DispatchRecord:
    now = timezone.now()
    given = {"method": "GET", "path": "/", "route": "/", "accepted_at": now, "sealed": b"", "published_at": now}
    record = DispatchRecord(pk=uuid.uuid4(), queue="bulk", trace_fields=json.dumps(FIELDS), **{**given, **values})
    message = RequestMessage({"REQUEST_METHOD": "GET", "PATH_INFO": "/"})
    record.sealed = sealing.seal_request(message, str(record.pk), "bulk")
    accept(record)
    return record


def test_the_first_message_has_the_trace_fields(messages: Any) -> None:
    assert publishing.publish(as_request(accepted()), conf.queues["bulk"])
    [headers] = messages("bulk")
    assert traced(headers) == FIELDS


def test_the_message_of_a_request_without_a_trace_has_no_trace_fields(messages: Any) -> None:
    assert publishing.publish(as_request(_without_trace()), conf.queues["bulk"])
    [headers] = messages("bulk")
    assert not {"headers", *FIELDS} & headers.keys()


def _without_trace() -> DispatchRecord:
    record = accepted()
    record.trace_fields = None
    return record


def test_a_trace_field_does_not_replace_a_field_of_celery(messages: Any) -> None:
    record = accepted()
    record.trace_fields = json.dumps({**FIELDS, "task": "another", "id": "another"})
    assert publishing.publish(as_request(record), conf.queues["bulk"])
    [headers] = messages("bulk")
    assert (headers["task"], headers["id"]) == (publishing.TASK, str(record.pk))


def reap(seconds: float = 0) -> None:
    now = timezone.now() + timedelta(seconds=seconds)
    for _ in Reaper(lambda: now).run_pass():
        pass


def test_the_reapers_message_has_the_trace_fields_if_the_first_was_never_published(messages: Any) -> None:
    accepted(published_at=None, due_at=timezone.now())
    reap()
    [headers] = messages("bulk")
    assert traced(headers) == FIELDS


@override_settings(REQUEST_BROKER={"REPUBLISH_AFTER": 1})
def test_the_reapers_message_has_the_trace_fields_if_the_first_was_lost(messages: Any) -> None:
    accepted(published_at=timezone.now() - timedelta(minutes=5))
    reap()
    [headers] = messages("bulk")
    assert traced(headers) == FIELDS


def claimed(record: DispatchRecord) -> int:
    return ledger.claim(record.pk, conf.queues["bulk"], "worker")


def test_the_message_of_a_retry_has_the_trace_fields(messages: Any) -> None:
    record = accepted()
    attempt = claimed(record)
    outcome = Outcome(status=500, error="broken", retriable=True)
    assert ledger.retry(record.pk, Run(attempt), conf.queues["bulk"], outcome)
    reap(3_600)
    [headers] = messages("bulk")
    assert traced(headers) == FIELDS


def test_the_message_after_a_hand_back_has_the_trace_fields(messages: Any) -> None:
    record = accepted()
    assert ledger.hand_back(record.pk, Run(claimed(record)), "the view was not reached")
    reap(60)
    [headers] = messages("bulk")
    assert traced(headers) == FIELDS


def test_the_message_of_a_revived_dead_letter_has_the_trace_fields(messages: Any) -> None:
    record = accepted()
    assert ledger.conclude(record.pk, claimed(record), conf.queues["bulk"], Outcome(status=500, error="broken"))
    assert ledger.revive(record.pk, "somebody")
    reap(1)
    [headers] = messages("bulk")
    assert traced(headers) == FIELDS


@pytest.mark.parametrize("headers", [None, "text", ["baggage"], {1: 2}, {"baggage": ["a=b"]}, {"traceparent": "no"}])
def test_invalid_trace_fields_of_a_message_are_ignored(headers: Any) -> None:
    assert tracing.of_task(SimpleNamespace(headers=headers)) == {}
    assert tracing.of_task(SimpleNamespace(headers=FIELDS)) == FIELDS
