"""Sentry: one error event for a dispatch that failed for good, in the trace of its request."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sentry_sdk")

from redis import Redis

from tests.neighbours.traces.processes import accepted, over, project
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.containers import Process
    from tests.neighbours.traces.processes import Project

pytestmark = pytest.mark.server("valkey")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project(tmp_path_factory.mktemp("sentry"), TRACER="sentry") as started:
        yield started


@pytest.fixture(scope="module")
def worker(site: Project) -> Process:
    return site.worker("--concurrency=2")


@pytest.fixture(scope="module")
def client(site: Project, worker: Process) -> httpx.Client:
    return site.web()


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def either(client: httpx.Client, site: Project, request: pytest.FixtureRequest) -> httpx.Client:
    """A client of the site under either interface."""
    return client if request.param == "wsgi" else site.web("asgi")


def since(site: Project) -> Any:
    """A function that returns the error events since now."""
    before = len(site.events())
    return lambda: [each for each in site.events()[before:] if each["kind"] == "event"]


def settled(site: Project, client: httpx.Client, errors: Any) -> list[dict[str, Any]]:
    """Returns the errors after another dispatch has ended, whose event would arrive last."""
    marker = uuid.uuid4().int % 10**8
    document = accepted(client, f"/says/{marker}/", "once")
    over(client, document)
    of_marker = document["id"]

    def has_event() -> bool:
        return any(each.get("tags", {}).get("dispatch.id") == of_marker and is_final(each) for each in errors())

    wait_until(has_event)
    return [each for each in errors() if each.get("tags", {}).get("dispatch.id") != of_marker]


def is_final(event: dict[str, Any]) -> bool:
    return raised(event) == ("OrderError", "not on purpose")


def raised(event: dict[str, Any]) -> tuple[str, str] | None:
    values = event.get("exception", {}).get("values")
    return (values[-1]["type"], values[-1]["value"]) if values else None


def summary(event: dict[str, Any]) -> str:
    error = raised(event)
    return ": ".join(error) if error else event.get("message") or event["logentry"]["formatted"]


def test_a_view_that_fails_in_each_attempt_is_one_event(site: Project, either: httpx.Client) -> None:
    errors = since(site)
    document = accepted(either, "/fails/5/", **{"X-Kept": "yes"})
    assert over(either, document)["attempts"] == 2
    [event] = settled(site, either, errors)
    assert raised(event) == ("OrderError", "order 5, attempt 2")
    assert event["exception"]["values"][-1]["stacktrace"]["frames"][-1]["function"] == "fails"
    assert event["transaction"] == "/fails/{pk}/"
    assert event["request"]["method"] == "GET"
    assert event["request"]["url"] == f"{either.base_url}/fails/5/".replace("//fails", "/fails")
    expected = {"dispatch.id": document["id"], "dispatch.queue": "bulk", "dispatch.attempt": "2"}
    assert expected.items() <= event["tags"].items()
    assert len(event["breadcrumbs"]["values"]) == len({str(each) for each in event["breadcrumbs"]["values"]})


@pytest.fixture(scope="module")
def with_identities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A site that sends personal data to Sentry."""
    with project(tmp_path_factory.mktemp("pii"), TRACER="sentry", PII="1") as started:
        started.worker("--concurrency=2")
        yield started


def content_of(event: dict[str, Any]) -> dict[str, Any]:
    """Returns an event without the values that differ each time."""
    kept = {name: event.get(name) for name in ("transaction", "transaction_info", "level", "request", "user", "_meta")}
    kept["request"] = {**event["request"], "headers": dict(event["request"]["headers"])}
    for name in ("X-Queue", "x-queue", "Connection", "connection"):  # differ, or are hop-by-hop
        kept["request"]["headers"].pop(name, None)
    kept["error"] = [event["exception"]["values"][-1][name] for name in ("type", "mechanism")]
    kept["_meta"] = (kept["_meta"] or {}).get("request")
    return kept


SECRET_FIELDS = {"Authorization": "Bearer secret-credential", "Cookie": "sessionid=secret-session; plain=biscuit"}


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize("identities", [False, True])
def test_an_event_is_like_the_one_of_a_request_that_is_answered_directly(
    site: Project, worker: Process, with_identities: Project, interface: str, *, identities: bool
) -> None:
    of = with_identities if identities else site
    client, errors = of.web(interface), since(of)
    url = accepted(client, "/fine/1/")["links"]["self"]
    fields = {**SECRET_FIELDS, "Referer": url, "Forwarded": "for=192.0.2.1", "X-Forwarded-For": "192.0.2.1"}
    path = f"/fails/5/?page=2&next={url}"
    client.get(path, headers=fields)
    over(client, accepted(client, path, "once", **fields), **fields)
    direct, queued = settled(of, client, errors)
    assert content_of(queued) == content_of(direct)
    sent = str(content_of(queued))
    assert "page=2" in queued["request"]["query_string"]
    assert ("192.0.2.1" in str(queued.get("user"))) is (identities and interface == "wsgi")
    assert ("biscuit" in sent) is identities
    assert ("secret-" in sent) is False
    assert url.rstrip("/").rpartition(".")[2] not in sent


def test_a_request_of_the_view_does_not_name_the_event(site: Project, either: httpx.Client) -> None:
    errors, fields = since(site), traced()
    over(either, accepted(either, "/asks/5/?of=this", "once", **fields))
    events = settled(site, either, errors)
    assert [summary(each) for each in events] == ["on purpose", "OrderError: order 5, 200"]
    for event in events:
        assert event["transaction"] == "/asks/{pk}/"
        assert event["request"]["url"].endswith("/asks/5/")
        assert event["request"]["query_string"] == "of=this"
    trace = fields["sentry-trace"].partition("-")[0]
    wait_until(lambda: transactions(site, trace) == ["/asks/{pk}/"])


def test_a_name_that_the_view_gives_stays(site: Project, client: httpx.Client) -> None:
    errors, fields = since(site), traced()
    over(client, accepted(client, "/asks/5/?name=checkout", "once", **fields))
    assert [each["transaction"] for each in settled(site, client, errors)] == ["checkout", "checkout"]
    wait_until(lambda: transactions(site, fields["sentry-trace"].partition("-")[0]) == ["checkout"])


@pytest.mark.parametrize("path", ["/fails/5/", "/is-killed/5/"])
def test_the_event_of_a_request_in_a_file_has_its_url(tmp_path: Any, path: str) -> None:
    with project(tmp_path, TRACER="sentry", IN_FILES="1") as site:
        client = site.web()
        site.worker()
        over(client, accepted(client, f"{path}?page=2", "once"))
        wait_until(lambda: since_start(site))
        [event] = since_start(site)
        assert event["request"]["url"] == f"{str(client.base_url).rstrip('/')}{path}"
        assert event["request"]["query_string"] == "page=2"


@pytest.mark.parametrize("path", ["/flaky/1/", "/fine/1/"])
def test_a_dispatch_that_succeeds_in_the_end_is_no_event(site: Project, client: httpx.Client, path: str) -> None:
    errors = since(site)
    assert over(client, accepted(client, path))["state"] == "succeeded"
    assert settled(site, client, errors) == []


@pytest.mark.parametrize(
    ("path", "queue", "expected"),
    [
        ("/fails/1/", "once", "OrderError: order 1, attempt 1"),
        ("/fails-async/1/", "bulk", "OrderError: order 1"),
        ("/exits/1/", "once", "ViewExitedError: the view raised SystemExit"),
        ("/is-slow/1/", "brief", "SoftTimeLimitExceeded: "),
        ("/answers/503/", "bulk", "the view answered 503"),
        ("/unsendable/1/", "bulk", "the status 101 is not"),
        ("/breaks-off/1/", "once", "OrderError: in the middle"),
        ("/is-killed/1/", "once", ("the worker process was lost; ", "the lease of its worker ran out; ")),
    ],
)
def test_each_kind_of_final_failure_is_one_event(
    site: Project, client: httpx.Client, path: str, queue: str, expected: Any
) -> None:
    errors = since(site)
    document = accepted(client, path, queue)
    assert over(client, document)["state"] == "failed"
    [event] = settled(site, client, errors)
    assert summary(event).startswith(expected)
    assert event["tags"]["dispatch.id"] == document["id"]
    assert event["transaction"] == "/".join(["", path.split("/")[1], "{status}" if "answers" in path else "{pk}", ""])
    assert (event["request"]["method"], event["request"]["url"]) == ("GET", str(client.base_url).rstrip("/") + path)
    assert event["level"] == "error"
    assert "request_broker.replay" not in event.get("fingerprint", [])


def test_a_worker_that_is_lost_for_good_is_one_event(site: Project, client: httpx.Client) -> None:
    errors = since(site)
    assert over(client, accepted(client, "/is-killed/1/", "bulk"), 60)["state"] == "failed"
    [event] = settled(site, client, errors)
    assert summary(event) in {"the worker process was lost", "the lease of its worker ran out"}


def test_a_process_that_is_stopped_at_the_hard_limit_is_one_event(site: Project, client: httpx.Client) -> None:
    errors = since(site)
    assert over(client, accepted(client, "/hangs/1/", "brief"), 60)["state"] == "failed"
    events = settled(site, client, errors)
    assert [summary(each) for each in events] == ["TimeLimitExceeded"]
    assert events[0]["transaction"] == "/hangs/{pk}/"


def test_a_middleware_that_fails_is_one_event(site: Project, either: httpx.Client) -> None:
    errors = since(site)
    assert over(either, accepted(either, "/fine/1/", **{"X-Fail": "yes"}))["state"] == "failed"
    [event] = settled(site, either, errors)
    assert raised(event) == ("OrderError", "in a middleware")


def test_events_captured_by_a_view_are_sent_in_each_attempt(site: Project, client: httpx.Client) -> None:
    errors = since(site)
    document = accepted(client, "/says/1/")
    assert over(client, document)["attempts"] == 2
    events = [
        each for each in settled(site, client, errors) if each.get("tags", {}).get("dispatch.id") == document["id"]
    ]
    said = sorted(str(raised(each) or each.get("message") or each["logentry"]["message"]) for each in events)
    caught = "('OrderError', 'caught on purpose')"
    final = "('OrderError', 'not on purpose')"
    assert said == sorted([caught, caught, "on purpose", "on purpose", "logged on purpose", "logged on purpose", final])


def test_an_error_that_a_view_has_logged_is_not_reported_again(site: Project, client: httpx.Client) -> None:
    errors = since(site)
    over(client, accepted(client, "/logs-and-fails/1/", "once"))
    [event] = settled(site, client, errors)
    assert (event["logger"], summary(event)) == ("shop", "OrderError: order 1")


def test_an_error_that_a_middleware_answers_is_one_event(site: Project, client: httpx.Client) -> None:
    errors = since(site)
    over(client, accepted(client, "/fails/1/", **{"X-Answer-Errors": "yes"}))
    [event] = settled(site, client, errors)
    assert summary(event) == "OrderError: order 1, attempt 2"
    assert event["exception"]["values"][-1]["stacktrace"]["frames"][-1]["function"] == "fails"


# Tokens


def test_no_event_and_no_transaction_has_a_token(site: Project, either: httpx.Client) -> None:
    before = len(site.events())
    document = accepted(either, "/fine/1/")
    over(either, document)
    path = document["links"]["self"].removeprefix(str(either.base_url).rstrip("/"))
    token = path.rstrip("/").rpartition("/")[2]
    assert either.get(path, headers={"X-Fail": "yes"}).status_code == 500
    over(either, accepted(either, "/fails/1/", "once", Referer=document["links"]["self"]))
    wait_until(lambda: sum(each["kind"] == "event" for each in site.events()[before:]) == 2)
    sent = str(site.events()[before:])
    assert token.partition("-")[0] in sent
    assert token.rpartition(".")[2] not in sent


# Traces


def traced() -> dict[str, str]:
    return {"sentry-trace": f"{uuid.uuid4().hex}-1234567890abcdef-1"}


def transactions(site: Project, trace: str) -> list[str]:
    """The names of those of this trace, in a worker."""
    return [
        each["transaction"]
        for each in site.events()
        if each["kind"] == "transaction"
        and each["contexts"]["trace"]["trace_id"] == trace
        and each["contexts"]["trace"]["op"] == "queue.task.celery"
    ]


def test_the_transaction_of_a_replay_is_in_the_trace_of_its_request(site: Project, either: httpx.Client) -> None:
    fields = traced()
    over(either, accepted(either, "/flaky/9/", **fields))
    trace = fields["sentry-trace"].partition("-")[0]
    wait_until(lambda: len(transactions(site, trace)) == 2)
    assert transactions(site, trace) == ["/flaky/{pk}/", "/flaky/{pk}/"]


def test_the_error_of_a_replay_is_in_the_trace_of_its_request(site: Project, client: httpx.Client) -> None:
    errors, fields = since(site), traced()
    over(client, accepted(client, "/is-killed/9/", "once", **fields))
    over(client, accepted(client, "/fails/9/", "bulk", **fields))
    events = settled(site, client, errors)
    assert len(events) == 2, [summary(each) for each in events]
    assert {each["contexts"]["trace"]["trace_id"] for each in events} == {fields["sentry-trace"].partition("-")[0]}


def test_a_dispatch_from_code_is_in_the_trace_of_its_request(site: Project, client: httpx.Client) -> None:
    fields = traced()
    client.get("/dispatches/", headers=fields)
    trace = fields["sentry-trace"].partition("-")[0]
    wait_until(lambda: transactions(site, trace) == ["/fine/{pk}/"])


@pytest.mark.parametrize("variables", [{}, {"WITHOUT_CELERY": "1"}])
def test_the_reapers_message_and_a_dead_letter_go_on_in_the_trace(tmp_path: Any, variables: dict[str, str]) -> None:
    with project(tmp_path, TRACER="sentry", **variables) as site:
        client, fields = site.web(), traced()
        document = accepted(client, "/fails/3/", "once", **fields)
        Redis.from_url(site.broker.url).delete("once")
        site.worker()
        assert over(client, document)["state"] == "failed"
        site.manage("broker_dispatches", "retry", document["id"])
        wait_until(lambda: len(since_start(site)) == 2)
        trace = fields["sentry-trace"].partition("-")[0]
        assert [each["contexts"]["trace"]["trace_id"] for each in since_start(site)] == [trace, trace]


def since_start(site: Project) -> list[dict[str, Any]]:
    return [each for each in site.events() if each["kind"] == "event"]


def test_an_eager_replay_is_one_event(tmp_path: Any) -> None:
    with project(tmp_path, TRACER="sentry", EAGER="1") as site:
        client, fields = site.web(), traced()
        over(client, accepted(client, "/fails/3/", "once", **fields))
        wait_until(lambda: since_start(site))
        [event] = since_start(site)
        assert event["transaction"] == "/fails/{pk}/"
        assert event["contexts"]["trace"]["trace_id"] == fields["sentry-trace"].partition("-")[0]
