"""The endpoints do the same in every project, through both interfaces."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import django
import pytest
from django.conf import settings
from django.core import mail
from django.test import override_settings

from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.endpoints.clients import Answer, Browser

TOUCHED = ["sessions touched", "sessions saved"]
NEVER = "private, no-store"
ADMIN = "admins@example.org" if django.VERSION >= (6,) else ("Admins", "admins@example.org")
QUEUED = [{"when": "true", "queue": "bulk"}]


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No log record contains a token, and nothing is mailed."""
    with override_settings(ADMINS=[ADMIN]), caplog.at_level(logging.DEBUG):
        yield
    assert not mail.outbox
    for record in caplog.get_records("call"):
        for dispatch in DispatchRecord.objects.all():
            said = logging.Formatter().format(record) + repr(vars(record))
            assert f"{dispatch.pk.hex}-" not in said or "**" in said, said


def accepted(browser: Browser, path: str = "/pay/") -> Answer:
    answer = browser.post(browser.mounted + path, {"amount": "5"})
    assert (answer.status, answer["Cache-Control"]) == (202, NEVER), answer.text
    return answer


def test_a_request_is_accepted_and_its_urls_are_right(visitor: Browser, prefix: str) -> None:
    answer = accepted(visitor)
    assert answer["Location"].startswith(f"http://testserver{prefix}/tasks/")
    assert answer.json()["links"]["self"] == answer["Location"]
    status = visitor.get(answer["Location"])
    assert (status.status, status["Cache-Control"], status.json()["state"]) == (200, NEVER, "succeeded")
    assert status.json()["links"] == answer.json()["links"]


def test_the_response_is_returned_and_not_cached(visitor: Browser) -> None:
    links = accepted(visitor).json()["links"]
    for _ in range(2):
        response = visitor.get(links["response"])
        assert (response.status, response["Cache-Control"]) == (201, NEVER)
        assert response.json()["paid"] == "5"


def test_a_waiting_dispatch_is_reported_at_once_and_after_a_wait(browser: Browser, waiting: str) -> None:
    with override_settings(REQUEST_BROKER={"MAX_WAIT": 0.05}):
        for query in ({}, {"wait": 1}):
            status = browser.get(waiting, **query)
            assert (status.status, status["Retry-After"], status["Cache-Control"]) == (200, "1", NEVER)
            pending = browser.get(f"{waiting}response/", **query)
            assert (pending.status, pending["Cache-Control"], pending.json()["state"]) == (202, NEVER, "queued")


def test_events(browser: Browser, waiting: str) -> None:
    browser.delete(waiting)
    stream = browser.get(f"{waiting}events/")
    assert (stream["Content-Type"], stream["Cache-Control"]) == ("text/event-stream", NEVER)
    assert stream.text.startswith("event: state\nid: cancelled\ndata: {")


def test_cancelling(browser: Browser, waiting: str) -> None:
    cancelled = browser.delete(waiting)
    assert (cancelled.status, cancelled.json()["state"], cancelled["Cache-Control"]) == (202, "cancelled", NEVER)
    gone = browser.get(f"{waiting}response/")
    assert (gone.status, gone["Content-Type"], gone["Cache-Control"]) == (410, "application/problem+json", NEVER)
    DispatchRecord.objects.update(state="running")
    assert browser.delete(waiting).status == 409


@pytest.mark.parametrize("what", ["", "response/", "events/"])
def test_refusals_are_problems(browser: Browser, waiting: str, what: str) -> None:
    browser.headers["Referer"] = "http://elsewhere.example/page"
    unknown = browser.get(f"{waiting[:-10]}0123456789/{what}")
    assert (unknown.status, unknown["Content-Type"]) == (404, "application/problem+json")
    assert browser.send("PUT", waiting + what).status == 405
    assert unknown["Cache-Control"] == browser.send("PUT", waiting + what)["Cache-Control"] == NEVER


def test_health_and_the_description_are_open(browser: Browser, prefix: str) -> None:
    health = browser.get(f"{prefix}/health/")
    assert (health.status, health.json(), health["Cache-Control"]) == (200, {"status": "pass"}, NEVER)
    described = browser.get(f"{prefix}/openapi.json")
    assert (described.status, described.json()["servers"]) == (200, [{"url": prefix}])


def test_a_stored_error_is_returned_without_logging(visitor: Browser, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(REQUEST_BROKER={"RULES": QUEUED, "QUEUES": {"bulk": {"max_attempts": 1}}}):
        links = visitor.get(f"{visitor.mounted}/broken/").json()["links"]
    mail.outbox.clear()
    caplog.clear()
    assert visitor.get(links["response"]).status == 500
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_an_endpoint_that_fails_is_a_problem_that_is_logged_once(
    browser: Browser, waiting: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*_args: object) -> Any:
        raise LookupError(waiting)

    monkeypatch.setattr("broker_django.tracking.views.ledger.find", stumble)
    answer = browser.get(waiting)
    assert (answer.status, answer["Content-Type"]) == (500, "application/problem+json")
    logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in logged] == ["broker_django.tracking.endpoints"]
    assert "LookupError" in caplog.text


@pytest.mark.parametrize("project", ["plain", "site-wide cache", *TOUCHED, "sessions in cookies"], indirect=True)
def test_another_user_sees_nothing_and_caches_keep_nothing_for_them(new_browser: Callable[[], Browser]) -> None:
    """Both know the URL of a dispatch that was accepted with a session, and one of them has the session."""
    first, second = new_browser(), new_browser()
    first.get(f"{first.mounted}/count/")
    with override_settings(REQUEST_BROKER={"RULES": QUEUED}):
        answer = first.get(f"{first.mounted}/count/")
    links = answer.json()["links"]
    mine = first.get(links["response"])
    theirs = second.get(links["response"])
    assert (mine.status, theirs.status) == (200, 404)
    assert not any(first.cookies["sessionid"].value in line for line in theirs.set_cookies)
    assert "Age" not in mine


@pytest.fixture
def held_while(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do something to a client's session while it is held, as the view that it waits for would."""
    from broker_django.ledger import ledger

    def begin(act: Callable[[], None]) -> None:
        find, looks = ledger.find, iter([None, None, act])

        def look(dispatch_id: Any) -> Any:
            happens = next(looks, None)
            if happens:
                happens()
                DispatchRecord.objects.filter(pk=dispatch_id).update(state="cancelled")
            return find(dispatch_id)

        monkeypatch.setattr(ledger, "find", look)

    return begin


def session_of(browser: Browser) -> Any:
    from importlib import import_module

    return import_module(settings.SESSION_ENGINE).SessionStore(browser.cookies["sessionid"].value)


@pytest.mark.parametrize("project", TOUCHED, indirect=True)
def test_a_held_client_does_not_undo_session_data_of_the_view(
    browser: Browser, waiting: str, held_while: Callable[..., None], project: str
) -> None:
    browser.get(f"{browser.mounted}/count/")
    entered = session_of(browser).get("entered", 0)

    def act() -> None:
        session = session_of(browser)
        session["cart"] = ["tea"]
        session.save()

    held_while(act)
    assert browser.get(waiting, wait=5).json()["state"] == "cancelled"
    after = session_of(browser)
    assert after["cart"] == ["tea"]
    if project == "sessions touched":  # what middleware wrote on this request is there too
        assert (after["entered"], after["left"]) == (entered + 1, entered + 1)


@pytest.mark.parametrize("project", TOUCHED, indirect=True)
def test_a_held_client_does_not_undo_a_login(browser: Browser, waiting: str, held_while: Callable[..., None]) -> None:
    browser.get(f"{browser.mounted}/count/")
    before, renewed = browser.cookies["sessionid"].value, []

    def act() -> None:
        session = session_of(browser)
        session.cycle_key()
        session["cart"] = ["tea"]
        session.save()
        renewed.append(session.session_key)

    held_while(act)
    answer = browser.get(waiting, wait=5)
    assert (answer.status, answer.json()["state"]) == (200, "cancelled")
    assert browser.cookies["sessionid"].value == before  # the view's own response brings the new one
    browser.cookies["sessionid"] = renewed[0]
    assert session_of(browser)["cart"] == ["tea"]


@pytest.mark.parametrize("project", ["sessions touched"], indirect=True)
def test_a_held_new_visitor_gets_the_session_that_middleware_began(browser: Browser, waiting: str) -> None:
    with override_settings(REQUEST_BROKER={"MAX_WAIT": 0.05}):
        assert browser.get(waiting, wait=1).status == 200
    assert session_of(browser)["entered"] == 1


def test_a_stream_reports_changes(browser: Browser, waiting: str, held_while: Callable[..., None]) -> None:
    held_while(lambda: None)
    browser.headers["Accept-Encoding"] = "gzip"
    stream = browser.get(f"{waiting}events/")
    assert "Content-Encoding" not in stream
    ids = [line for line in stream.text.splitlines() if line.startswith("id: ")]
    assert ids == ["id: queued", "id: cancelled"]


@pytest.mark.parametrize("project", ["broken links mailed"], indirect=True)
@pytest.mark.parametrize("missing", ["response/logo.png", "../../../logo.png", "../../logo.png"])
def test_broken_links_of_a_stored_page_are_not_mailed(browser: Browser, waiting: str, missing: str) -> None:
    picture = urljoin(waiting, missing)
    assert browser.send("GET", picture, headers={"Referer": f"{waiting}response/"}).status == 404
    assert mail.outbox == []
    browser.send("GET", "/logo.png", headers={"Referer": "http://testserver/page/"})
    assert "http://testserver/page/" in mail.outbox.pop().body
