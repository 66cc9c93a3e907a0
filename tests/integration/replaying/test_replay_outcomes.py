"""Outcomes of replays whose code fails before, in or after the view."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import state
from django.core import signals
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path

from broker_core.dispatches import NOT_REACHED
from broker_core.errors import ConfigurationError
from broker_core.message import RequestMessage
from broker_django.context import Replay
from workers import tasks
from workers.replaying import replay
from workers.replaying.isolation import isolated
from workers.replaying.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker_core.message import Protocol
    from workers.replaying.replay import Answer

MIDDLEWARE = "broker_django.middleware.RequestBrokerMiddleware"
PROTOCOLS = ["wsgi", "asgi"]
STOPPED = {"StopIteration", "RuntimeError", "CancelledError", "a middleware answered 500"}
"""The error for a StopIteration. Under ASGI it depends on the Python version."""
ran: list[str] = []


class Stop(BaseException):
    """An error that a library of the project uses to end its threads."""


EXITS: dict[str, Callable[[], BaseException]] = {
    "StopIteration": StopIteration,
    "WorkerShutdown": lambda: WorkerShutdown(0),
    "WorkerTerminate": lambda: WorkerTerminate(1),
    "Stop": Stop,
}


def good(_request: HttpRequest) -> HttpResponse:
    ran.append("good")
    return HttpResponse("good")


def closing(_request: HttpRequest, name: str) -> HttpResponse:
    def close() -> None:
        raise EXITS[name]()

    response = good(_request)
    response._resource_closers.append(close)
    return response


def leave(_request: HttpRequest, name: str) -> HttpResponse:
    raise EXITS[name]()


class Rendered(HttpResponse):
    """Is rendered after its view, as a TemplateResponse is."""

    def render(self) -> HttpResponse:
        raise StopIteration


def rendered(_request: HttpRequest) -> HttpResponse:
    return Rendered()


urlpatterns = [
    path("good/", good),
    path("closing/<str:name>/", closing),
    path("leave/<str:name>/", leave),
    path("rendered/", rendered),
    path("broker/", include("broker_django.urls")),
]


def raising(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Middleware that cannot be created."""
    raise RuntimeError("a variable of the environment is missing")


def exiting(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        raise Stop

    return middleware


def stopping(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Raises StopIteration in `process_view`."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    def process_view(*_: Any) -> None:
        raise StopIteration

    middleware.process_view = process_view
    return middleware


@pytest.fixture(autouse=True)
def only_this() -> Iterator[None]:
    ran.clear()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[MIDDLEWARE]):
        yield


def message_to(path: str, protocol: Protocol = "wsgi") -> RequestMessage:
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "SERVER_NAME": "testserver", "SERVER_PORT": "80"}
    return RequestMessage(environ, protocol=protocol, path=path)


def answer(path: str, protocol: Protocol = "wsgi") -> Answer:
    return isolated(lambda: replay.run(message_to(path, protocol), Replay(uuid.uuid4(), "bulk", 1, None)))


def fail_at_once(*_: Any) -> None:
    raise RuntimeError("nothing is as it was")


def fail(**_: Any) -> None:
    raise RuntimeError("of a receiver")


@pytest.fixture
def failing_at_the_end() -> Iterator[None]:
    signals.request_finished.connect(fail)
    yield
    signals.request_finished.disconnect(fail)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_fails_after_the_response_does_not_lose_it(
    failing_at_the_end: None, protocol: Protocol, caplog: pytest.LogCaptureFixture
) -> None:
    found = answer("/good/", protocol)
    assert (found.response.status, found.response.body, found.error) == (200, b"good", "")
    assert "of a receiver" in caplog.text


@pytest.mark.parametrize("name", EXITS)
def test_an_error_on_closing_does_not_lose_the_response(name: str) -> None:
    found = answer(f"/closing/{name}/")
    assert (found.response.body, found.error) == (b"good", "")


@pytest.mark.parametrize(
    "broken", ["workers.replaying.isolation.ProcessState.restore", "workers.databases.connections.clean"]
)
def test_a_process_that_cannot_be_restored_does_not_lose_the_response(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr("workers.databases.connections.clean", lambda: None)
    monkeypatch.setattr(broken, fail_at_once)
    found = tasks._answer(SimpleNamespace(is_eager=False), message_to("/good/"), uuid.uuid4(), "bulk", 1)
    assert (found.response.body, found.error, ran) == (b"good", "", ["good"])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", EXITS)
def test_any_error_of_a_view_is_an_outcome(name: str, protocol: Protocol) -> None:
    found = answer(f"/leave/{name}/", protocol)
    assert (found.response.status, found.retriable, found.unknown_here) == (500, True, False)
    assert found.error == ("RuntimeError" if name == "StopIteration" else name)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stop_iteration_of_a_response_that_is_rendered_is_an_outcome(protocol: Protocol) -> None:
    found = answer("/rendered/", protocol)
    assert (found.response.status, found.retriable, found.error in STOPPED) == (500, True, True)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stop_iteration_of_a_middleware_is_an_outcome(protocol: Protocol) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.stopping", MIDDLEWARE]):
        found = answer("/good/", protocol)
    assert (found.response.status, found.error in {f"{NOT_REACHED}: {by}" for by in STOPPED}, ran) == (500, True, [])


def test_an_error_that_ends_the_worker_is_not_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_terminate", 1)
    with pytest.raises(WorkerTerminate):
        answer("/leave/WorkerTerminate/")


BROKEN = {
    "gone": {"MIDDLEWARE": ["tests.nowhere.Gone", MIDDLEWARE]},
    "raising": {"MIDDLEWARE": [f"{__name__}.raising", MIDDLEWARE]},
    "without the broker": {"MIDDLEWARE": []},
    "no URLs": {"ROOT_URLCONF": "tests.nowhere_urls"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", BROKEN)
def test_if_no_view_can_be_reached_the_dispatch_is_handed_back(name: str, protocol: Protocol) -> None:
    with override_settings(**BROKEN[name]):
        found = answer("/good/", protocol)
    assert (found.unknown_here, found.error.partition(": ")[0], ran) == (True, NOT_REACHED, [])


def start(monkeypatch: pytest.MonkeyPatch, *queues: str) -> None:
    """Runs the first step of a worker that serves these Celery queues."""
    monkeypatch.setattr(connections, "close_all", lambda: None)
    amqp = SimpleNamespace(queues=SimpleNamespace(consume_from=queues))
    worker = SimpleNamespace(app=SimpleNamespace(amqp=amqp))
    Readiness(worker).create(worker)


@pytest.mark.parametrize("name", BROKEN)
def test_a_worker_that_cannot_reach_its_views_does_not_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with override_settings(**BROKEN[name]), pytest.raises((ImportError, RuntimeError, ConfigurationError)):
        start(monkeypatch, "celery", "bulk")
    assert "This worker could run no request" in caplog.text


def test_a_worker_that_can_reach_its_views_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, "celery", "bulk")


@pytest.mark.parametrize("name", BROKEN)
def test_a_worker_for_only_the_projects_own_queues_needs_no_views(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with override_settings(**BROKEN[name]):
        start(monkeypatch, "celery")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_middleware_that_exits_before_the_view_hands_the_dispatch_back(protocol: Protocol) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.exiting", MIDDLEWARE]):
        found = answer("/good/", protocol)
    assert (found.unknown_here, found.error, ran) == (True, f"{NOT_REACHED}: Stop", [])
