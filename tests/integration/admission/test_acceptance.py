"""Which requests are queued, and which responses clients get."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from celery import current_app
from celery.backends.redis import RedisBackend
from django.conf import settings
from django.contrib.auth.models import User
from django.db import OperationalError, transaction
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path

from broker_django.decorators import queue
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import get_app
from broker_django.models import DispatchRecord, Router

if TYPE_CHECKING:
    from broker_core.dispatches import SealedRequest


def accepted(response: Any) -> dict[str, Any]:
    assert response.status_code == 202, response.content
    document: dict[str, Any] = response.json()
    return document


def stored(client: Client, response: Any) -> Any:
    return client.get(accepted(response)["links"]["response"])


def test_a_queued_view_is_answered_with_202_and_its_status(client: Client) -> None:
    response = client.post("/pay/?coupon=1", {"amount": "5"})
    document = accepted(response)
    assert response["Location"] == document["links"]["self"]
    assert (response["Retry-After"], response["Cache-Control"]) == ("1", "private, no-store")
    assert (document["queue"], document["method"], document["path"]) == ("payment", "POST", "/pay/")
    assert document["route"] == "/pay/"
    assert client.get(response["Location"]).json()["state"] == "succeeded"
    assert stored(client, response).json()["paid"] == "5"


def test_a_client_that_waits_gets_the_views_own_response(client: Client) -> None:
    response = client.post("/pay/", {"amount": "5"}, headers={"Prefer": "wait=5"})
    assert (response.status_code, response.json()["broker"]["replayed"]) == (201, True)


def test_it_works_under_asgi(async_client: AsyncClient) -> None:
    post = async_to_sync(async_client.post)
    assert accepted(post("/pay/", {"amount": "5"}))["queue"] == "payment"
    response = post("/pay/", {"amount": "5"}, headers={"Prefer": "wait=5"})
    assert (response.status_code, response.json()["broker"]["replayed"]) == (201, True)


@pytest.mark.parametrize(
    ("method", "path", "queue"),
    [
        ("get", "/report/2020/", "bulk"),
        ("head", "/report/2020/", None),
        ("get", "/decorated/", "realtime"),
        ("post", "/by-handler/", "bulk"),
        ("get", "/by-handler/", None),
        ("post", "/rest-set/things/7/archive/", "bulk"),
        ("get", "/rest-set/things/", None),
        ("post", "/immediately/", None),
        ("post", "/preferably/", None),
        ("get", "/echo/", None),
    ],
)
def test_decorators_say_which_handlers_are_queued(client: Client, method: str, path: str, queue: str | None) -> None:
    response = getattr(client, method)(path)
    assert response.status_code == (200 if queue is None else 202)
    assert list(DispatchRecord.objects.values_list("queue", flat=True)) == ([queue] if queue else [])


def test_a_decorator_comes_before_a_rule(client: Client, everything_accepted: None) -> None:
    assert client.post("/immediately/").json()["replayed"] is False
    assert accepted(client.post("/pay/"))["queue"] == "payment"
    assert accepted(client.get("/echo/"))["queue"] == "bulk"


def test_the_first_matching_rule_wins(client: Client) -> None:
    rules = [
        {"when": "request.path == '/nowhere/'", "queue": "bulk"},
        {"when": "request.headers['x-urgent'] == 'yes'", "queue": "payment"},
        {"when": "request.path.startsWith('/echo')", "queue": "realtime"},
    ]
    with override_settings(REQUEST_BROKER={"RULES": rules}):
        assert accepted(client.get("/echo/", headers={"X-Urgent": "yes"}))["queue"] == "payment"
        assert accepted(client.get("/echo/"))["queue"] == "realtime"
        assert client.get("/immediately/").status_code == 200


def test_a_rule_may_read_the_user(client: Client, async_client: AsyncClient) -> None:
    user = User.objects.create_user("ann")
    rules = [{"when": "user.is_authenticated && user.username == 'ann'", "queue": "payment"}]
    with override_settings(REQUEST_BROKER={"RULES": rules}):
        assert client.get("/echo/").status_code == 200
        client.force_login(user)
        assert accepted(client.get("/echo/"))["queue"] == "payment"
        async_client.force_login(user)
        assert accepted(async_to_sync(async_client.get)("/echo/"))["queue"] == "payment"


@pytest.mark.parametrize(("mode", "prefer", "status"), [
    ("sync", "respond-async", 200),
    ("prefer", "", 200),
    ("prefer", "respond-async", 202),
    ("queue", "", 202),
])  # fmt: skip
def test_the_mode_of_a_rule(client: Client, mode: str, prefer: str, status: int) -> None:
    with override_settings(REQUEST_BROKER={"RULES": [{"when": "true", "queue": "bulk", "mode": mode}]}):
        response = client.get("/echo/", headers={"Prefer": prefer})
    assert response.status_code == status
    assert response.get("Preference-Applied") == ("respond-async" if prefer and status == 202 else None)


QUEUED = {"RULES": [{"when": "true", "queue": "bulk"}]}


@pytest.mark.parametrize(("atomic", "applied"), [(False, "wait=1"), (True, None)])
@pytest.mark.django_db(transaction=True)
def test_a_wait_that_a_transaction_prevents_is_not_reported_as_applied(
    client: Client, monkeypatch: pytest.MonkeyPatch, atomic: bool, applied: str | None
) -> None:
    """Nothing is published before the commit, so there is nothing to wait for."""
    monkeypatch.setattr("broker_django.admission.handover.publish_now", lambda *_: True)
    get_app().conf.task_always_eager = False
    try:
        with (
            override_settings(REQUEST_BROKER={"RULES": [{"when": "true", "queue": "bulk"}]}),
            transaction.atomic() if atomic else nullcontext(),
        ):
            response = client.get("/echo/", headers={"Prefer": "wait=1"})
    finally:
        get_app().conf.task_always_eager = True
    assert response.status_code == 202
    assert response.get("Preference-Applied") == applied


@pytest.mark.parametrize(
    "prefer", ["wait=soon", "wait=-1", "=,;;", "wait=1" + "0" * 5000, '"', "respond-async=no", "\xff"]
)
def test_a_malformed_preference_is_ignored(client: Client, prefer: str) -> None:
    assert accepted(client.post("/pay/", headers={"Prefer": prefer}))["queue"] == "payment"


def test_a_body_above_the_limit_is_refused(client: Client) -> None:
    with override_settings(REQUEST_BROKER={"MAX_BODY_SIZE": 1000}):
        plain = client.post("/pay/", "x" * 1001, content_type="text/plain")
        form = client.post("/pay/", {"amount": "x" * 1001})
        assert accepted(client.post("/pay/", "x" * 1000, content_type="text/plain"))
    for response in (plain, form):
        assert (response.status_code, response["Content-Type"]) == (413, "application/problem+json")
        assert response.json()["type"].endswith("body-too-large")
    assert DispatchRecord.objects.count() == 1


def test_an_unknown_url_is_a_plain_404(client: Client, everything_accepted: None) -> None:
    assert client.get("/nowhere/").status_code == 404
    assert not DispatchRecord.objects.exists()


def test_csrf_is_checked_before_anything_is_accepted() -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.post("/pay-with-csrf/").status_code == 403
    assert not DispatchRecord.objects.exists()


def test_the_brokers_own_urls_are_never_queued(client: Client, everything_accepted: None) -> None:
    location = client.get("/echo/")["Location"]
    assert client.get(location).status_code == 200
    assert client.get("/broker/health/").json() == {"status": "pass"}
    assert DispatchRecord.objects.count() == 1


def test_an_invalid_rule_is_left_out_and_the_rest_works(client: Client) -> None:
    rules = [{"when": "request.path ==", "queue": "bulk"}, {"when": "true", "queue": "no-such-queue"}]
    with override_settings(REQUEST_BROKER={"RULES": rules}):
        assert client.get("/echo/").status_code == 200
        assert client.post("/pay/").status_code == 202


def test_a_ledger_that_cannot_be_written_is_a_503(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: SealedRequest) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(ledger, "accept", fail)
    response = client.post("/pay/")
    assert (response.status_code, response["Content-Type"]) == (503, "application/problem+json")
    assert response["Retry-After"]


def test_without_a_message_broker_the_client_gets_a_202(
    client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    app = get_app()
    app.conf.task_always_eager = False
    try:
        with django_capture_on_commit_callbacks(execute=True):
            document = accepted(client.post("/pay/", headers={"Prefer": "wait=20"}))
    finally:
        app.conf.task_always_eager = True
    assert client.get(document["links"]["self"]).json()["state"] == "queued"


def test_the_app_of_the_tests_is_the_configured_one() -> None:
    assert get_app() is current_app._get_current_object()


def test_a_response_that_is_gone_before_it_is_read_becomes_a_202(client: Client) -> None:
    with override_settings(REQUEST_BROKER={"QUEUES": {"payment": {"wait": 5, "results_ttl": 0}}}):
        document = accepted(client.post("/pay/", {"amount": "5"}))
    assert client.get(document["links"]["self"]).json()["state"] == "succeeded"


def test_a_request_whose_own_urlconf_has_no_status_urls_runs_now(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(MIDDLEWARE=["tests.integration.middleware.OwnUrlconf", *settings.MIDDLEWARE]):
        response = client.get("/own/", headers={"Host": "one.example:8000"})
    assert (response.status_code, response.content) == (200, b"own")
    assert not DispatchRecord.objects.exists()
    [message] = caplog.messages
    assert message == (
        "/own/ runs now instead of in a queue: the broker's URLs cannot be reversed on the host one.example. Include "
        '"broker_django.urls" in the URLconf tests.integration.middleware, below a prefix that captures nothing.'
    )


class ByTenant:
    """A URLconf whose status URLs have a prefix with an unknown value."""

    urlpatterns = [
        path("<slug:tenant>/broker/", include("broker_django.urls")),
        path("<slug:tenant>/", queue("bulk")(lambda _request, tenant: HttpResponse(tenant))),
    ]


def test_a_request_runs_now_if_the_prefix_of_the_status_urls_captures_something(client: Client) -> None:
    with override_settings(ROOT_URLCONF=ByTenant):
        response = client.get("/acme/")
    assert (response.status_code, response.content) == (200, b"acme")
    assert not DispatchRecord.objects.exists()


def test_a_host_that_is_not_allowed_is_refused_before_anything_is_accepted(client: Client) -> None:
    middleware = [name for name in settings.MIDDLEWARE if "common" not in name]
    with override_settings(ALLOWED_HOSTS=["testserver"], MIDDLEWARE=middleware):
        assert client.post("/pay/", headers={"Host": "evil.example"}).status_code == 400
    assert not DispatchRecord.objects.exists()


def test_a_shared_cache_may_not_keep_a_response_at_its_owners_url(client: Client, everything_accepted: None) -> None:
    document = accepted(client.get("/public/"))
    assert client.get(document["links"]["response"])["Cache-Control"] == "max-age=60, private"


def test_a_result_store_that_does_not_answer_is_a_503(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    document = accepted(client.post("/pay/", {"amount": "5"}))
    monkeypatch.setattr(get_app()._local, "backend", RedisBackend(app=get_app(), url="redis://127.0.0.1:1/0"))
    response = client.get(document["links"]["response"])
    assert (response.status_code, response["Content-Type"]) == (503, "application/problem+json")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/echo/%00/"), ("POST", f"/echo/{'x' * 3000}/"), ("A" * 30, "/echo/")]
)
def test_values_from_a_client_fit_into_the_ledger(client: Client, method: str, path: str) -> None:
    with override_settings(REQUEST_BROKER={"RULES": [{"when": "true", "queue": "bulk"}]}):
        document = accepted(client.generic(method, path))
    record = DispatchRecord.objects.get(pk=document["id"])
    record.full_clean(exclude=["sealed"])
    assert "\0" not in record.path
    assert client.get(document["links"]["response"]).json()["method"] == method


def test_the_code_of_a_router_fits_into_the_ledger(client: Client) -> None:
    router = Router.objects.create(code="x" * 255, source="/echo/", action="queue", methods="POST")
    router.destinations.create(url="bulk")
    record = DispatchRecord.objects.get(pk=accepted(client.post("/echo/"))["id"])
    record.full_clean(exclude=["sealed"])
