"""What views and middleware learn from `request.broker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import include, path, re_path

import broker_django
from broker_django.messaging.celery_app import get_app
from broker_django.messaging.sealing import task_argument
from broker_django.models import DispatchRecord
from tests.integration.tracking.test_endpoints import path_of
from tests.rows import as_request
from workers import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

MIDDLEWARE = "broker_django.middleware.RequestBrokerMiddleware"
RULES = [{"when": 'request.path.startsWith("/seen/")', "queue": "bulk"}]
seen: list[tuple[bool, bool]] = []


def view(request: HttpRequest) -> JsonResponse:
    broker = request.broker
    accepted_at = broker.accepted_at and broker.accepted_at.timestamp()
    return JsonResponse({"accepted_at": accepted_at, "reached": broker.reached, "path": request.path})


def watching(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        seen.append((request.broker.replayed, request.broker.reached))
        return response

    return middleware


def answering_replays(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """As a middleware does that has seen a nonce before."""

    def middleware(request: HttpRequest) -> HttpResponse:
        replayed = getattr(request, "broker", None) is not None and request.broker.replayed
        return HttpResponse("seen before", status=403) if replayed else get_response(request)

    return middleware


urlpatterns = [
    path("seen/", view),
    path("another/", view),
    path("broker/", include("broker_django.urls")),
]


@pytest.fixture(autouse=True)
def queued() -> Any:
    seen.clear()
    with override_settings(
        ROOT_URLCONF=__name__, REQUEST_BROKER={"RULES": RULES}, MIDDLEWARE=[f"{__name__}.watching", MIDDLEWARE]
    ):
        yield


def answer(client: Client) -> Any:
    return client.get(path_of(DispatchRecord.objects.get(), "response/"))


def test_a_delayed_view_knows_when_its_request_was_accepted(client: Client) -> None:
    client.get("/seen/")
    record = DispatchRecord.objects.get()
    document = answer(client).json()
    assert document["accepted_at"] == pytest.approx(record.accepted_at.timestamp(), abs=1e-3)
    assert document["reached"] is True
    with override_settings(REQUEST_BROKER={}):
        assert client.get("/seen/").json()["accepted_at"] is None


def test_a_middleware_sees_that_the_view_was_reached(client: Client) -> None:
    client.get("/seen/")
    assert (True, True) in seen


def test_a_middlewares_answer_to_a_replay_is_a_failure(client: Client) -> None:
    chain = [f"{__name__}.watching", f"{__name__}.answering_replays", MIDDLEWARE]
    with override_settings(MIDDLEWARE=chain):
        client.get("/seen/")
    record = DispatchRecord.objects.get()
    assert (record.state, record.error) == ("failed", "the view was not reached: a middleware answered 403")
    assert answer(client).status_code == 403


@pytest.mark.parametrize("prefix", ["/app", "/app/"])
@pytest.mark.parametrize("sent", ["/seen/", "/app/seen/"])
def test_a_replay_has_the_path_that_the_request_had_under_a_forced_script_name(prefix: str, sent: str) -> None:
    async def send() -> Any:
        client = AsyncClient()
        direct = await client.get(sent, headers={"X-Direct": "1"})
        return direct, await client.get(sent)

    rules = [{"when": '!("x-direct" in request.headers)', "queue": "bulk"}]
    broker = {"RULES": rules, "QUEUES": {"bulk": {"wait": 5}}}
    with override_settings(FORCE_SCRIPT_NAME=prefix, REQUEST_BROKER=broker):
        direct, replayed = async_to_sync(send)()
    assert direct.status_code == replayed.status_code
    if direct.status_code == 200:
        assert DispatchRecord.objects.count() == 1
        assert replayed.json()["path"] == direct.json()["path"]


def test_a_page_from_a_middlewares_cache_is_an_answer(client: Client) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.caching", MIDDLEWARE]):
        client.get("/seen/")
    record = DispatchRecord.objects.get()
    assert (record.state, record.error, record.response_status) == ("succeeded", "", 200)
    assert answer(client).content == b"from the cache"


@pytest.mark.parametrize(("method", "status"), [("POST", 200), ("GET", 202), ("GET", 204)])
def test_other_answers_without_the_view_are_failures(client: Client, method: str, status: int) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.locked_down", MIDDLEWARE]):
        client.generic(method, "/seen/", headers={"X-Status": str(status)})
    record = DispatchRecord.objects.get()
    assert (record.state, record.error) == ("failed", f"the view was not reached: a middleware answered {status}")
    assert record.sealed


def locked_down(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Asks for a password, with a page that looks like a success."""

    def middleware(request: HttpRequest) -> HttpResponse:
        replayed = getattr(request, "broker", None) is not None and request.broker.replayed
        return HttpResponse("password?", status=int(request.headers["X-Status"])) if replayed else get_response(request)

    return middleware


def caching(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Has cached the page before the replay."""

    def middleware(request: HttpRequest) -> HttpResponse:
        replayed = getattr(request, "broker", None) is not None and request.broker.replayed
        return HttpResponse("from the cache") if replayed else get_response(request)

    return middleware


class Elsewhere:
    """The URLs of another release."""

    urlpatterns = [path("seen/", lambda _request: HttpResponse("another view")), *urlpatterns[1:]]


class Caught:
    """The URLs of a release without one of them: a catch-all pattern leads to the same view."""

    urlpatterns = [re_path("^(?P<anything>.*)/$", view), *urlpatterns[1:]]


class Edited:
    """The URLs of a release that writes a pattern otherwise."""

    urlpatterns = [re_path("^seen/$", view), *urlpatterns[1:]]


def accepted(client: Client) -> DispatchRecord:
    get_app().conf.task_always_eager = False
    try:
        client.get("/seen/")
    finally:
        get_app().conf.task_always_eager = True
    return DispatchRecord.objects.get()


def replayed_with(client: Client, urls: type) -> DispatchRecord:
    """Returns a dispatch that was accepted here, and run by a worker with these URLs."""
    record = accepted(client)
    with override_settings(ROOT_URLCONF=urls):
        tasks.replay.apply(
            args=(task_argument(as_request(record)),), task_id=str(record.pk), routing_key=record.queue, throw=False
        )
    record.refresh_from_db()
    return record


def test_a_rewritten_pattern_leads_to_the_same_view(client: Client) -> None:
    assert replayed_with(client, Edited).state == "succeeded"


@pytest.mark.parametrize(
    ("urls", "here"), [(Elsewhere, f"{__name__}.Elsewhere.<lambda>"), (Caught, f"{__name__}.view by /<anything>/")]
)
def test_another_view_at_the_url_is_not_an_error_of_the_view(
    client: Client, caplog: pytest.LogCaptureFixture, urls: type, here: str
) -> None:
    record = replayed_with(client, urls)
    assert f"the view was not reached: the URL leads to {here}" in record.error
    assert f"and led to {__name__}.view by /seen/ when it was accepted" in record.error
    assert [each for each in caplog.records if each.name == "django.request"] == []


def test_a_worker_with_another_ledger_logs_it(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Its database is not that of the web processes, if somebody has forgotten a variable."""
    caplog.set_level("INFO", "workers.tasks")
    record = accepted(client)
    message = {
        "args": (task_argument(as_request(record)),),
        "task_id": str(record.pk),
        "routing_key": record.queue,
        "throw": False,
    }
    for _delivery in range(2):
        tasks.replay.apply(**message)
    DispatchRecord.objects.all().delete()
    tasks.replay.apply(**message)
    dropped = [(each.levelname, each.getMessage()) for each in caplog.records if "is dropped" in each.getMessage()]
    assert [level for level, _text in dropped] == ["INFO", "WARNING"]
    assert "not in the ledger of this worker" in dropped[1][1]


def test_middleware_can_recognise_a_replay(client: Client) -> None:
    assert broker_django.is_replay(RequestFactory().get("/")) is False
    assert issubclass(broker_django.BrokerRequest, HttpRequest)
    assert "BrokerRequest" in broker_django.__all__
    with pytest.raises(AttributeError):
        _ = broker_django.Nothing
