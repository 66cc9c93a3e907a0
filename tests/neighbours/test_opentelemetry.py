"""OpenTelemetry: the spans of a replay are in the trace of its request."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

for module in ("opentelemetry.sdk", "opentelemetry.instrumentation.django", "opentelemetry.instrumentation.celery"):
    pytest.importorskip(module)

from redis import Redis  # noqa: E402

from broker_django.log_redaction import without_tokens  # noqa: E402
from tests.neighbours.traces.processes import accepted, over, project  # noqa: E402
from tests.processes import wait_until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.neighbours.traces.processes import Project

pytestmark = pytest.mark.server("valkey")

RUN, PUBLISH = "run/request_broker.replay", "apply_async/request_broker.replay"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project(tmp_path_factory.mktemp("opentelemetry"), TRACER="opentelemetry") as started:
        yield started


@pytest.fixture(scope="module")
def client(site: Project) -> httpx.Client:
    client = site.web()
    site.worker("--concurrency=2")
    return client


def traced() -> dict[str, str]:
    return {"traceparent": f"00-{uuid.uuid4().hex}-b7ad6b7169203331-01"}


def trace_of(fields: dict[str, str]) -> str:
    return fields["traceparent"].split("-")[1]


def spans(site: Project, trace: str, name: str = "") -> list[dict[str, Any]]:
    return [each for each in site.events() if each["trace"] == trace and name in each["name"]]


def wait_for(site: Project, trace: str, name: str, number: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(spans(site, trace, name)) >= number)
    assert len(spans(site, trace, name)) == number
    return spans(site, trace, name)


def test_the_spans_of_a_replay_descend_from_the_request(site: Project, client: httpx.Client) -> None:
    fields = traced()
    over(client, accepted(client, "/fine/1/", **fields))
    [run] = wait_for(site, trace_of(fields), RUN, 1)
    by_id = {each["span"]: each for each in spans(site, trace_of(fields))}
    way = [run["name"]]
    while run["parent"] in by_id:
        run = by_id[run["parent"]]
        way.append(run["name"])
    assert way == [RUN, PUBLISH, "GET fine/<int:pk>/"]
    assert run["kind"] == "SERVER"


def test_the_span_of_a_poll_has_no_token(site: Project, client: httpx.Client) -> None:
    fields = traced()
    url = accepted(client, "/fine/3/", **traced())["links"]["self"]
    client.get(url, headers=fields)
    [poll] = wait_for(site, trace_of(fields), "GET broker/tasks/", 1)
    attributes = " ".join(poll["attributes"].values())
    assert "/tasks/" in attributes
    assert url.rstrip("/").rpartition("/")[2] not in attributes
    assert without_tokens(attributes) == attributes


CAPTURED = {
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": "Referer",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE": "Location",
}


@pytest.mark.parametrize("hook", [{}, {"HOOK": "1"}])
def test_captured_header_fields_have_no_token(tmp_path: Any, hook: dict[str, str]) -> None:
    with project(tmp_path, TRACER="opentelemetry", **CAPTURED, **hook) as site:
        client, fields = site.web(), traced()
        url = accepted(client, "/fine/1/")["links"]["self"]
        client.get("/fine/2/", headers={"Referer": url, **fields})
        client.get("/no-view/", headers={"Referer": url, **fields})
        accepted(client, "/fine/3/", Referer=url, **fields)
        wait_until(lambda: len([each for each in spans(site, trace_of(fields)) if each["kind"] == "SERVER"]) == 3)
        for span in (each["attributes"] for each in spans(site, trace_of(fields)) if each["kind"] == "SERVER"):
            assert "/tasks/" in span["http.request.header.referer"]
            assert without_tokens(span["http.request.header.referer"]) == span["http.request.header.referer"]
            location = span.get("http.response.header.location", "")
            assert (without_tokens(location) == location) is (bool(hook) or not location)


def test_the_view_runs_in_a_span_below_the_task(site: Project, client: httpx.Client) -> None:
    fields = traced()
    over(client, accepted(client, "/fine/2/", **fields))
    [run] = wait_for(site, trace_of(fields), RUN, 1)
    parents = {each["kind"]: each["parent"] for each in wait_for(site, trace_of(fields), "GET fine/<int:pk>/", 2)}
    assert set(parents) == {"SERVER", "INTERNAL"}
    assert parents["INTERNAL"] == run["span"]


def test_the_view_sees_the_original_fields(client: httpx.Client) -> None:
    fields = traced()
    document = over(client, accepted(client, "/fine/3/", **fields))
    seen = client.get(document["links"]["response"]).json()["headers"]
    assert seen["Traceparent"] == fields["traceparent"]


def test_each_attempt_is_in_the_trace(site: Project, client: httpx.Client) -> None:
    fields = traced()
    assert over(client, accepted(client, "/flaky/1/", **fields))["attempts"] == 2
    wait_for(site, trace_of(fields), RUN, 2)


def test_a_request_that_begins_a_trace_is_in_one_with_its_replay(site: Project, client: httpx.Client) -> None:
    pk = uuid.uuid4().int % 10**8
    over(client, accepted(client, f"/flaky/{pk}/"))
    of_view = [each for each in site.events() if f"/flaky/{pk}/" in str(each["attributes"])]
    assert len({each["trace"] for each in of_view}) == 1
    wait_for(site, of_view[0]["trace"], RUN, 2)


def test_a_dispatch_from_code_is_in_the_trace_of_its_request(site: Project, client: httpx.Client) -> None:
    fields = traced()
    client.get("/dispatches/", headers=fields)
    wait_for(site, trace_of(fields), RUN, 1)


def test_a_dispatch_from_a_replay_is_in_its_trace(site: Project, client: httpx.Client) -> None:
    fields = traced()
    over(client, accepted(client, "/dispatches/", **fields))
    wait_for(site, trace_of(fields), RUN, 2)


def test_one_request_leaves_nothing_to_the_next(site: Project, client: httpx.Client) -> None:
    fields = traced()
    over(client, accepted(client, "/fine/4/", **fields))
    pk = uuid.uuid4().int % 10**8
    over(client, accepted(client, f"/fine/{pk}/"))
    of_next = [each for each in site.events() if f"/fine/{pk}/" in str(each["attributes"])]
    assert of_next
    assert trace_of(fields) not in {each["trace"] for each in of_next}


@pytest.mark.parametrize(("interface", "variables"), [("wsgi", {}), ("asgi", {}), ("wsgi", {"WITHOUT_CELERY": "1"})])
def test_the_reapers_message_and_a_dead_letter_go_on_in_the_trace(
    tmp_path: Any, interface: str, variables: dict[str, str]
) -> None:
    with project(tmp_path, TRACER="opentelemetry", **variables) as site:
        client, fields = site.web(interface), traced()
        document = accepted(client, "/fails/3/", "once", **fields)
        Redis.from_url(site.broker.url).delete("once")
        site.worker()
        assert over(client, document)["state"] == "failed"
        site.manage("broker_dispatches", "retry", document["id"])
        assert over(client, document)["state"] == "failed"
        if not variables:
            wait_for(site, trace_of(fields), RUN, 2)
        if interface == "wsgi":
            wait_until(lambda: len([each for each in site.events() if "GET fails" in each["name"]]) == 3)
            views = [each for each in site.events() if "GET fails" in each["name"]]
            assert {each["trace"] for each in views} == {trace_of(fields)}


def test_an_eager_replay_is_in_the_trace(tmp_path: Any) -> None:
    with project(tmp_path, TRACER="opentelemetry", EAGER="1") as site:
        client, fields = site.web(), traced()
        over(client, accepted(client, "/fails/3/", "once", **fields))
        request, run, view = (each for each in reversed(site.events()) if each["trace"] == trace_of(fields))
        assert (run["parent"], view["parent"]) == (request["span"], run["span"])
