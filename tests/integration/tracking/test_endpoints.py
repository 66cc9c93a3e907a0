"""The endpoints of dispatches."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.core.signing import Signer
from django.test import AsyncClient, Client, override_settings
from django.utils import timezone
from django_celery_results.models import TaskResult

from broker_django.ledger import tokens
from broker_django.messaging.celery_app import get_app
from broker_django.models import DispatchRecord
from broker_django.tracking import views
from broker_django.tracking.watcher import UnwatchedError, Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator


def path_of(record: DispatchRecord, what: str = "") -> str:
    return f"/broker/tasks/{tokens.issue(record.pk, record.accepted_at)}/{what}"


@pytest.fixture
def waiting() -> DispatchRecord:
    """A dispatch that no worker has claimed."""
    return DispatchRecord.objects.create(
        queue="bulk", method="GET", path="/x/", route="/x/", accepted_at=timezone.now(), sealed=b""
    )


@pytest.fixture
def answered(client: Client) -> DispatchRecord:
    client.post("/pay/", {"amount": "5"})
    return DispatchRecord.objects.get()


def states(body: bytes) -> list[str]:
    lines = body.decode().splitlines()
    return [json.loads(line.removeprefix("data: "))["state"] for line in lines if line.startswith("data: ")]


UNKNOWN = uuid.UUID(int=0x18A02573E8DC4DD898BB0A3CA95FB0C1)


@pytest.mark.parametrize("what", ["", "response/", "events/"])
@pytest.mark.parametrize(
    "token",
    [
        "x",
        UNKNOWN.hex,
        f"{UNKNOWN.hex}.AAAA",
        Signer(sep=".", salt="another").sign(UNKNOWN.hex),
        tokens.issue(UNKNOWN, datetime(2999, 1, 1, tzinfo=UTC)),
        "a" * 10_000,
        f"{UNKNOWN.hex}." + "a" * 10_000,
        "..%2f..%2fetc",
        "%00",
        "\u00fc",
    ],
)
def test_a_token_that_was_not_issued_here_is_a_404(client: Client, token: str, what: str) -> None:
    assert client.get(f"/broker/tasks/{token}/{what}").status_code == 404


def test_a_changed_token_is_a_404(client: Client, answered: DispatchRecord) -> None:
    token = tokens.issue(answered.pk, answered.accepted_at)
    for position in range(len(token)):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        assert client.get(f"/broker/tasks/{changed}/").status_code == 404


def test_an_unfinished_dispatch_has_a_retry_after(client: Client, waiting: DispatchRecord) -> None:
    response = client.get(path_of(waiting))
    assert (response.status_code, response["Retry-After"], response.json()["done"]) == (200, "1", False)
    pending = client.get(path_of(waiting, "response/"))
    assert (pending.status_code, pending["Retry-After"]) == (202, "1")


def test_a_finished_dispatch_has_no_retry_after(client: Client, answered: DispatchRecord) -> None:
    response = client.get(path_of(answered))
    assert "Retry-After" not in response
    document = response.json()
    assert document["response"] == {
        "status": 201,
        "content_type": "application/json",
        "size": len(client.get(document["links"]["response"]).content),
    }
    assert document["accepted_at"] <= document["started_at"] <= document["finished_at"]


@pytest.mark.parametrize("wait", ["1", "0", "x", "-1", "1e9", "9" * 40])
def test_a_wait_that_is_not_a_number_is_ignored(client: Client, waiting: DispatchRecord, wait: str) -> None:
    with override_settings(REQUEST_BROKER={"MAX_WAIT": 0.05}):
        assert client.get(path_of(waiting), {"wait": wait}).json()["state"] == "queued"
        assert client.get(path_of(waiting, "response/"), {"wait": wait}).status_code == 202


def test_a_waiting_dispatch_is_cancelled(client: Client, waiting: DispatchRecord) -> None:
    response = Client(enforce_csrf_checks=True).delete(path_of(waiting))
    assert (response.status_code, response.json()["state"]) == (202, "cancelled")
    assert client.delete(path_of(waiting)).status_code == 202
    gone = client.get(path_of(waiting, "response/"))
    assert (gone.status_code, gone["Content-Type"]) == (410, "application/problem+json")


@pytest.mark.parametrize("state", ["running", "succeeded", "failed", "expired"])
def test_a_running_dispatch_cannot_be_cancelled(client: Client, waiting: DispatchRecord, state: str) -> None:
    DispatchRecord.objects.update(state=state)
    response = client.delete(path_of(waiting))
    assert (response.status_code, state in response.json()["detail"]) == (409, True)


def test_a_dispatch_expires(client: Client, waiting: DispatchRecord) -> None:
    DispatchRecord.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert client.get(path_of(waiting)).json()["state"] == "expired"
    assert client.get(path_of(waiting, "response/")).status_code == 410


def test_a_response_is_kept_for_results_ttl(client: Client, answered: DispatchRecord) -> None:
    assert client.get(path_of(answered, "response/")).status_code == 201
    DispatchRecord.objects.update(finished_at=timezone.now() - timedelta(days=2))
    assert client.get(path_of(answered, "response/")).status_code == 410


def test_a_stored_response_that_was_altered_is_not_returned(client: Client, answered: DispatchRecord) -> None:
    TaskResult.objects.update(result=json.dumps({"status": 200, "sealed": "QUFBQQ=="}))
    assert client.get(path_of(answered, "response/")).status_code == 410


def test_events_end_with_the_last_state(client: Client, answered: DispatchRecord) -> None:
    response: Any = client.get(path_of(answered, "events/"))
    assert response["Content-Type"] == "text/event-stream"
    assert states(b"".join(response.streaming_content)) == ["succeeded"]


def streamed(client: AsyncClient, record: DispatchRecord) -> bytes:
    async def read() -> bytes:
        response: Any = await client.get(path_of(record, "events/"))
        return b"".join([chunk async for chunk in response.streaming_content])

    return async_to_sync(read)()


def streamed_by_wsgi(client: Client, record: DispatchRecord) -> bytes:
    response: Any = client.get(path_of(record, "events/"))
    return b"".join(response.streaming_content)


def test_events_under_asgi(async_client: AsyncClient, answered: DispatchRecord) -> None:
    assert states(streamed(async_client, answered)) == ["succeeded"]


def test_a_stream_ends_after_its_lifetime_with_a_time_to_reconnect(
    async_client: AsyncClient, waiting: DispatchRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "EVENTS_LIFETIME", 0.05)
    monkeypatch.setattr(views, "KEEP_ALIVE", 0.02)
    body = streamed(async_client, waiting)
    assert states(body) == ["queued"]
    assert b": keep-alive" in body
    assert body.endswith(b"\n\nretry: 1000\n\n")


@pytest.mark.parametrize("settings", [{"MAX_WAIT": 0.05}, {"MAX_HELD_THREADS": 0}])
def test_a_stream_under_wsgi_is_short(client: Client, waiting: DispatchRecord, settings: dict[str, Any]) -> None:
    with override_settings(REQUEST_BROKER=settings):
        body = streamed_by_wsgi(client, waiting)
    assert states(body) == ["queued"]
    assert body.endswith(b"\n\nretry: 1000\n\n")


def deactivate_and_finish(record: DispatchRecord) -> None:
    User.objects.update(is_active=False)
    DispatchRecord.objects.filter(pk=record.pk).update(state="succeeded", finished_at=timezone.now())


@pytest.mark.django_db(transaction=True)
@override_settings(REQUEST_BROKER={"MAX_WAIT": 20})
def test_a_stream_ends_if_the_account_is_closed(
    client: Client, async_client: AsyncClient, waiting: DispatchRecord
) -> None:
    ann = User.objects.create_user("ann")
    DispatchRecord.objects.update(user=str(ann.pk))
    client.force_login(ann)
    async_client.cookies = client.cookies

    async def events_by_asgi() -> list[bytes]:
        response: Any = await async_client.get(path_of(waiting, "events/"))
        parts = response.streaming_content
        first = await anext(parts)
        await sync_to_async(deactivate_and_finish)(waiting)
        return [first, *[each async for each in parts]]

    def events_by_wsgi() -> list[bytes]:
        response: Any = client.get(path_of(waiting, "events/"))
        parts = iter(response.streaming_content)
        first = next(parts)
        deactivate_and_finish(waiting)
        return [first, *parts]

    for events in (async_to_sync(events_by_asgi), events_by_wsgi):
        User.objects.update(is_active=True)
        DispatchRecord.objects.update(state="queued", finished_at=None)
        assert states(b"".join(events())) == ["queued"]


@pytest.fixture
def no_threads_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process can start no watcher thread."""

    def start(_thread: Watcher) -> None:
        raise UnwatchedError("no thread")

    monkeypatch.setattr(Watcher, "_start", start)
    monkeypatch.setattr("broker_django.tracking.waiting._polls_here", lambda: False)
    monkeypatch.setattr("broker_django.models.database.in_transaction", lambda: False)


@pytest.mark.usefixtures("no_threads_left")
@override_settings(REQUEST_BROKER={"QUEUES": {"bulk": {"wait": 30}}, "MAX_WAIT": 30})
def test_a_client_that_cannot_wait_is_answered_at_once(
    client: Client, async_client: AsyncClient, waiting: DispatchRecord
) -> None:
    began = time.monotonic()
    for get in (client.get, async_to_sync(async_client.get)):
        assert get(path_of(waiting), {"wait": "30"}).json()["state"] == "queued"
        assert get(path_of(waiting, "response/"), {"wait": "30"}).status_code == 202
    for body in (streamed(async_client, waiting), streamed_by_wsgi(client, waiting)):
        assert states(body) == ["queued"]
        assert body.endswith(b"retry: 1000\n\n")
    assert time.monotonic() - began < 20


@pytest.fixture
def not_eager() -> Iterator[None]:
    """Accepted dispatches are not run."""
    get_app().conf.task_always_eager = False
    yield
    get_app().conf.task_always_eager = True


@pytest.mark.usefixtures("no_threads_left", "not_eager")
def test_a_wait_that_never_began_is_not_reported_as_applied(
    client: Client, async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_django.admission.handover.publish_now", lambda *_: True)
    for get in (client.get, async_to_sync(async_client.get)):
        with override_settings(REQUEST_BROKER={"RULES": [{"when": "true", "queue": "bulk"}]}):
            response = get("/echo/", headers={"Prefer": "respond-async, wait=1"})
        assert (response.status_code, response["Preference-Applied"]) == (202, "respond-async")


@override_settings(ALLOWED_HOSTS=["testserver"], MIDDLEWARE=["broker_django.middleware.RequestBrokerMiddleware"])
@pytest.mark.parametrize("what", ["", "events/"])
def test_a_host_that_is_not_served_is_a_400_before_anything_is_sent(
    client: Client, waiting: DispatchRecord, what: str
) -> None:
    assert client.get(path_of(waiting, what), headers={"Host": "another.example"}).status_code == 400


@pytest.mark.parametrize("method", ["post", "put", "patch"])
def test_other_methods_are_not_allowed(client: Client, answered: DispatchRecord, method: str) -> None:
    response = getattr(client, method)(path_of(answered))
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD, DELETE")


def test_health(client: Client) -> None:
    response = client.get("/broker/health/")
    assert (response.json(), response["Cache-Control"]) == ({"status": "pass"}, "private, no-store")


def test_the_admin_shows_dispatches_and_changes_nothing(admin_client: Client, answered: DispatchRecord) -> None:
    listing = admin_client.get("/admin/broker_django/dispatchrecord/", {"queue": "payment", "q": "/pay/"})
    assert "POST /pay/" in listing.content.decode()
    page = admin_client.get(f"/admin/broker_django/dispatchrecord/{answered.pk}/change/").content.decode()
    for text in ("queued", "running", "succeeded", "attempt 1", "answered 201"):
        assert text in page
    assert "amount" not in page
    assert 'name="_save"' not in page
    assert admin_client.get("/admin/broker_django/dispatchrecord/add/").status_code == 403
    assert admin_client.post(f"/admin/broker_django/dispatchrecord/{answered.pk}/delete/").status_code == 403


@pytest.mark.parametrize("what", ["", "response/", "events/"])
def test_an_expired_url_is_gone(client: Client, what: str) -> None:
    token = tokens.issue(UNKNOWN, datetime(2020, 1, 1, tzinfo=UTC))
    answer = client.get(f"/broker/tasks/{token}/{what}")
    assert (answer.status_code, answer.json()["type"]) == (410, "urn:request-broker:problem:token-expired")
