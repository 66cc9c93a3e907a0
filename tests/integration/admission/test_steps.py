"""The steps of admission: requests of clients and of code pass the same steps, in the same order."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.http import HttpResponse
from django.test import AsyncClient, Client

from broker_core.errors import MessageError, ReducedCapacityError
from broker_django import dispatch
from broker_django.admission.steps import STEPS, NotQueueableError, admit
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_django.admission.steps import Step
    from broker_django.admission.submission import Submission


def refuse(submission: Submission) -> None:
    raise ReducedCapacityError(f"{submission.decision.queue} is closed to {submission.path}", 7)


def answer(submission: Submission) -> HttpResponse:
    return HttpResponse(f"known: {submission.path}", status=203)


def leave(submission: Submission) -> None:
    raise NotQueueableError("it is Sunday", logging.ERROR)


def never(submission: Submission) -> None:
    raise AssertionError("a step before it has spoken")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Returns a function that adds steps after the existing ones."""

    def set_steps(*given: Step) -> None:
        monkeypatch.setattr("broker_django.admission.acceptance.STEPS", (*STEPS, *given))

    return set_steps


@pytest.fixture(params=["wsgi", "asgi"])
def post(request: pytest.FixtureRequest) -> Callable[..., HttpResponse]:
    return Client().post if request.param == "wsgi" else async_to_sync(AsyncClient().post)


@pytest.fixture(params=[{}, {"content_type": "text/csv", "data": "a,b\n"}], ids=["form", "binary"])
def body(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(autouse=True)
def _nothing_is_accepted(db: None) -> Any:
    yield
    assert not DispatchRecord.objects.exists()


def test_a_refusal_is_a_problem_for_a_client_and_an_error_for_code(steps: Any, post: Any, body: Any) -> None:
    steps(refuse, never)
    response = post("/pay/", **body)
    assert (response.status_code, response["Retry-After"]) == (503, "7")
    assert response.json()["detail"] == "payment is closed to /pay/"
    with pytest.raises(ReducedCapacityError, match="bulk is closed to /echo/"):
        dispatch("/echo/", queue="bulk")


def test_a_response_of_a_step_is_sent_to_the_client(steps: Any, post: Any, body: Any) -> None:
    steps(answer, never)
    response = post("/pay/", **body)
    assert (response.status_code, response.content) == (203, b"known: /pay/")
    with pytest.raises(MessageError, match="answers the request with 203"):
        dispatch("/echo/", queue="bulk")


def test_a_request_that_cannot_be_queued_runs_now(steps: Any, post: Any, body: Any, caplog: Any) -> None:
    steps(leave, never)
    assert post("/pay/", **body).status_code == 201
    logged = [record for record in caplog.records if record.name == "broker_django.pipeline"]
    assert [(record.levelname, record.getMessage()) for record in logged] == [
        ("ERROR", "/pay/ runs now instead of in a queue: it is Sunday")
    ]
    with pytest.raises(MessageError, match="it is Sunday"):
        dispatch("/echo/", queue="bulk")


def test_a_step_that_counts_is_asked_once(steps: Any, post: Any, body: Any) -> None:
    asked: list[Submission] = []
    steps(asked.append, refuse)
    assert post("/pay/", **body).status_code == 503
    assert len(asked) == 1


def test_the_first_step_that_answers_is_the_last_one_called() -> None:
    asked = []

    def passes(submission: Any) -> None:
        asked.append(submission)

    response = admit("a submission", (passes, passes, lambda _: HttpResponse("here"), never))  # type: ignore[arg-type]
    assert response.content == b"here"
    assert asked == ["a submission"] * 2
    assert admit("a submission", (passes,)) is None  # type: ignore[arg-type]
