"""A request is accepted, replayed by a worker in another process, and answered."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import PATIENCE, done
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from pytest_celery import CeleryTestSetup

    from tests.acceptance.conftest import Gates, Ledger, Site, StartWorker, Worker


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    """Run every test of this module under ASGI and under WSGI."""
    with site.client() as client:
        yield client


def test_the_worker_answers_to_celery(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(ping=False, control=False, docker=True)
    assert {"ok": "pong"} in [
        reply[celery_setup.worker.hostname()] for reply in celery_setup.app.control.ping(timeout=PATIENCE, limit=1)
    ]


def test_a_payment_is_accepted_and_its_response_fetched_verbatim(client: httpx.Client, worker: Worker) -> None:
    accepted = client.post("/pay/", data={"amount": "12.50"})
    assert accepted.status_code == 202
    assert accepted.headers["Location"] == accepted.json()["links"]["self"]
    assert int(accepted.headers["Retry-After"]) > 0
    assert accepted.headers["Cache-Control"] == "private, no-store"

    document = done(client, accepted)
    assert document["state"] == "succeeded"
    assert (document["queue"], document["method"], document["path"]) == ("payment", "POST", "/pay/")
    assert document["attempts"] == 1
    assert document["accepted_at"] <= document["started_at"] <= document["finished_at"]

    response = client.get(document["links"]["response"])
    assert response.status_code == 201
    assert response.headers["Content-Type"] == "application/json"
    assert document["response"] == {
        "status": 201,
        "content_type": "application/json",
        "size": len(response.content),
    }
    body = response.json()
    assert body["paid"] == "12.50"
    assert body["broker"]["id"] == accepted.json()["id"]
    assert body["broker"]["pid"] not in {worker.container.pid}


def test_status_reason_headers_and_body_come_back_as_the_view_sent_them(client: httpx.Client) -> None:
    later = client.get("/teapot/", headers={"X-Queue": "realtime"})
    now = client.get("/teapot/")
    stored = client.get(done(client, later)["links"]["response"])
    assert (stored.status_code, stored.reason_phrase) == (now.status_code, now.reason_phrase)
    assert stored.content == now.content
    assert headers_of(stored) == {**headers_of(now), "cache-control": "private, no-store"}


def test_a_response_in_time_has_no_trace_of_the_detour(client: httpx.Client) -> None:
    now = client.get("/teapot/")
    later = client.get("/teapot/", headers={"X-Queue": "realtime", "Prefer": f"wait={PATIENCE}"})
    assert (later.status_code, later.reason_phrase, later.content) == (418, now.reason_phrase, now.content)
    assert headers_of(later) == headers_of(now)


def test_the_trace_of_a_request_reaches_its_view_and_the_ledger(client: httpx.Client, ledger: Ledger) -> None:
    fields = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "a=b"}
    later = client.get("/echo/", headers={"X-Queue": "realtime", **fields})
    seen = client.get(done(client, later)["links"]["response"]).json()["headers"]
    assert {name: seen[name.title()] for name in fields} == fields
    assert json.loads(ledger.dispatch(later.json()["id"]).trace_fields or "") == fields


def headers_of(response: httpx.Response) -> dict[str, str]:
    """What the application said."""
    return {name: value for name, value in response.headers.items() if name not in {"date", "server"}}


def test_a_client_that_waits_gets_the_views_own_response(client: httpx.Client) -> None:
    response = client.post("/pay/", data={"amount": "1"}, headers={"Prefer": "wait=10"})
    assert response.status_code == 201
    assert response.json()["paid"] == "1"
    assert response.json()["broker"]["replayed"] is True


def test_a_preferred_view_runs_at_once_unless_the_client_prefers_otherwise(client: httpx.Client) -> None:
    at_once = client.post("/preferably/")
    assert at_once.status_code == 200
    assert at_once.json()["replayed"] is False

    later = client.post("/preferably/", headers={"Prefer": "respond-async"})
    assert later.headers["Preference-Applied"] == "respond-async"
    assert client.get(done(client, later)["links"]["response"]).json()["queue"] == "payment"


def test_a_view_that_fails_gives_its_500_and_tells_no_secret(client: httpx.Client) -> None:
    document = done(client, client.get("/broken/", headers={"X-Queue": "bulk"}))
    assert document["state"] == "failed"
    assert "secret detail" not in json.dumps(document)
    response = client.get(document["links"]["response"])
    assert response.status_code == 500
    assert "secret detail" not in response.text


def test_a_long_poll_is_woken_when_the_dispatch_is_done(client: httpx.Client, site: Site, gates: Gates) -> None:
    gate = gates.new()
    accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "realtime"})
    location = accepted.headers["Location"]
    returned: list[tuple[float, dict[str, object]]] = []

    def poll() -> None:
        with site.client() as waiting:
            document = waiting.get(location, params={"wait": PATIENCE}).json()
            returned.append((time.monotonic(), document))

    poller = threading.Thread(target=poll)
    poller.start()
    wait_until(lambda: client.get(location).json()["state"] == "running")
    assert not returned
    opened = time.monotonic()
    gates.open(gate)
    poller.join(PATIENCE)
    woken, document = returned[0]
    assert document["state"] == "succeeded"
    assert woken - opened < 3


def test_a_poll_without_wait_tells_when_to_come_back(client: httpx.Client, gates: Gates) -> None:
    gate = gates.new()
    accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "realtime"})
    status = client.get(accepted.headers["Location"])
    assert status.status_code == 200
    assert "Retry-After" in status.headers
    assert client.get(status.json()["links"]["response"]).status_code == 202
    gates.open(gate)
    done(client, accepted)
    assert "Retry-After" not in client.get(accepted.headers["Location"]).headers


def states_in_events(client: httpx.Client, url: str) -> Iterator[str]:
    with client.stream("GET", url) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))["state"]


def test_the_event_stream_ends_with_the_last_state(client: httpx.Client, gates: Gates) -> None:
    gate = gates.new()
    accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "payment"}).json()
    states = []
    for state in states_in_events(client, accepted["links"]["events"]):
        states.append(state)
        gates.open(gate)
    assert states[-1] == "succeeded"
    assert states[:-1] in (["queued"], ["running"], ["queued", "running"])


def test_the_event_stream_tells_every_state(unattended: Site, gates: Gates, start_worker: StartWorker) -> None:
    gate = gates.new()
    states = []
    with unattended.client() as client:
        accepted = client.post(f"/gate/{gate}/", headers={"X-Queue": "payment"}).json()
        for state in states_in_events(client, accepted["links"]["events"]):
            states.append(state)
            if state == "queued":
                start_worker()
            else:
                gates.open(gate)
    assert states == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_methods_without_a_body_are_carried_too(client: httpx.Client, method: str) -> None:
    now = client.request(method, "/echo/")
    later = client.request(method, "/echo/", headers={"X-Queue": "bulk", "Prefer": f"wait={PATIENCE}"})
    assert later.status_code == now.status_code == 200
    assert later.headers["Content-Type"] == now.headers["Content-Type"]
    if method == "OPTIONS":
        assert later.json()["method"] == "OPTIONS"
    else:
        assert later.content == b""


def test_head_on_a_status_url_has_the_headers_of_get(client: httpx.Client) -> None:
    accepted = client.post("/pay/")
    done(client, accepted)
    head = client.head(accepted.headers["Location"])
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == "application/json"


def test_an_upload_reaches_the_view_byte_for_byte(client: httpx.Client) -> None:
    content = bytes(range(256)) * 400
    response = client.post(
        "/echo/übergröße/?größe=ä&größe=€",
        data={"name": "Zoë", "amount": "1"},
        files={"file": ("Rechnung März €.pdf", content, "application/pdf")},
        headers={"X-Queue": "bulk", "Prefer": f"wait={PATIENCE}", "X-Name": "Jürgen".encode("latin-1")},
    )
    seen = response.json()
    assert seen["broker"]["replayed"] is True
    assert seen["name"] == "übergröße"
    assert seen["query"] == {"größe": ["ä", "€"]}
    assert seen["post"] == {"name": ["Zoë"], "amount": ["1"]}
    assert seen["files"] == {"file": [["Rechnung März €.pdf", len(content), hashlib.sha256(content).hexdigest()]]}
    assert seen["headers"]["X-Name"] == "Jürgen"


def test_a_replay_sees_the_same_request_as_the_view(client: httpx.Client) -> None:
    request = {"params": {"a": ["1", "2"]}, "headers": {"Accept-Language": "de", "X-Name": b"J\xfcrgen"}}
    now = client.post("/echo/", data={"b": "ü"}, **request).json()
    request["headers"] |= {"X-Queue": "realtime", "Prefer": f"wait={PATIENCE}"}
    later = client.post("/echo/", data={"b": "ü"}, **request).json()
    assert later["broker"].pop("replayed") is True
    assert later["headers"].pop("X-Queue") and later["headers"].pop("Prefer")
    for seen in (now, later):
        del seen["broker"]
    assert now["headers"].pop("Connection"), "which is between the client and its server"
    assert later == now


def test_a_body_of_5_mb_travels_both_ways(client: httpx.Client) -> None:
    content = random.Random(5).randbytes(5 * 1024 * 1024)
    response = client.post(
        "/body/",
        content=content,
        headers={"X-Queue": "bulk", "Prefer": f"wait={PATIENCE}", "Content-Type": "application/octet-stream"},
    )
    assert response.status_code == 200
    assert response.content == content


def test_streams_and_downloads_are_stored_whole(client: httpx.Client) -> None:
    prefer = {"X-Queue": "bulk", "Prefer": f"wait={PATIENCE}"}
    assert client.get("/stream/200000/", headers=prefer).content == b"x" * 200_000
    assert client.get("/async-stream/", headers=prefer).text == "chunk 0\nchunk 1\nchunk 2\n"
    download = client.get("/download/", headers=prefer)
    assert download.headers["Content-Disposition"] == client.get("/download/").headers["Content-Disposition"]


def test_cookies_of_a_queued_view_reach_the_client(client: httpx.Client) -> None:
    now = client.get("/cookies/").headers.get_list("Set-Cookie")
    accepted = client.get("/cookies/", headers={"X-Queue": "payment"})
    stored = client.get(done(client, accepted)["links"]["response"]).headers.get_list("Set-Cookie")
    assert [line.split("; expires")[0] for line in sorted(stored)] == [
        line.split("; expires")[0] for line in sorted(now)
    ]
