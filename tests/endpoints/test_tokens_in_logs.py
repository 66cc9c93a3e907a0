"""No log and no mail contains a token."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

import django
import pytest
from django.conf import settings
from django.core import mail
from django.core.exceptions import SuspiciousOperation
from django.test import RequestFactory, override_settings
from django.utils.log import AdminEmailHandler

from broker_django.http.log_redaction import without_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest, HttpResponse

    from tests.endpoints.clients import Browser

ADMIN = "admins@example.org" if django.VERSION >= (6,) else ("Admins", "admins@example.org")
PLAIN = pytest.mark.parametrize("project", ["plain"], indirect=True)


class Raises:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        pass

    def __call__(self, request: HttpRequest) -> HttpResponse:
        raise RuntimeError("a middleware of the project's")


class RaisesWithPath(Raises):
    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            raise LookupError(request.path)
        except LookupError as error:
            raise ValueError(f"no tenant for {request.path}") from error


class RaisesOwnSuspicion(Raises):
    """Its error is a new class, so that Django creates a new logger for it."""

    def __call__(self, request: HttpRequest) -> HttpResponse:
        own = type(f"Odd{uuid.uuid4().hex}", (SuspiciousOperation,), {})
        raise own(f"no tenant for {request.path}")


@pytest.fixture(autouse=True)
def written(waiting: str, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Collects logs and mails. There must be some, and none may contain the signature of the token."""
    signature = waiting.rstrip("/").rpartition(".")[2]
    with override_settings(ADMINS=[ADMIN]), caplog.at_level(logging.DEBUG):
        yield
    said = [logging.Formatter().format(record) + repr(vars(record)) for record in caplog.get_records("call")]
    said += [f"{message.subject} {message.body} {message.alternatives}" for message in mail.outbox]  # type: ignore[attr-defined]
    assert any("tasks/" in each for each in said)
    assert not any(signature in each for each in said), said


@PLAIN
@pytest.mark.parametrize("below", ["nothing/", "response/more/", "response"])
def test_a_404_below_a_status_url(browser: Browser, waiting: str, below: str) -> None:
    logging.getLogger("django.request").warning("A line that others write of %s", waiting)
    assert browser.get(waiting + below).status in {404, 301}


@PLAIN
def test_a_middleware_that_raises(browser: Browser, waiting: str) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.Raises", *settings.MIDDLEWARE]):
        assert browser.get(waiting).status == 500
    assert [("tasks/" in message.subject, "tasks/" in message.body) for message in mail.outbox] == [(True, True)]


@pytest.fixture
def mails_html() -> Iterator[None]:
    """Reports are mailed in HTML too, with the variables of every frame."""
    [handler] = [each for each in logging.getLogger("django").handlers if isinstance(each, AdminEmailHandler)]
    handler.include_html = True
    yield
    handler.include_html = False


@PLAIN
@pytest.mark.usefixtures("mails_html")
@pytest.mark.parametrize("name", ["Raises", "RaisesWithPath"])
def test_an_error_of_middleware_that_contains_the_path(
    browser: Browser, waiting: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.{name}", *settings.MIDDLEWARE]):
        assert browser.get(waiting).status == 500
    assert "in __call__" in caplog.text
    [message] = mail.outbox
    assert "in __call__" in str(message.body)
    assert message.alternatives  # type: ignore[attr-defined]


@PLAIN
@pytest.mark.usefixtures("mails_html")
def test_a_suspicion_of_a_projects_own(browser: Browser, waiting: str) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.RaisesOwnSuspicion", *settings.MIDDLEWARE]):
        assert browser.get(waiting).status == 400
    assert ["tasks/" in message.subject for message in mail.outbox] == [True]


@PLAIN
@pytest.mark.parametrize("name", ["django.request", "django.channels.server"])
def test_errors_logged_by_others(waiting: str, name: str) -> None:
    log, error = logging.getLogger(name), LookupError(waiting)
    log.error("Failed: %s", error)
    log.error("Failed: %r, %d times", error, 3)
    log.error(error)
    log.error("Failed", exc_info=error)
    log.info("HTTP %(method)s %(path)s", {"method": "GET", "path": waiting})
    request = RequestFactory().get("/other/", {"next": waiting}, headers={"Referer": waiting})
    assert request.GET
    log.error("Failed", extra={"request": request}, exc_info=error)


@PLAIN
def test_an_error_without_a_token_stays_as_it_is(waiting: str, caplog: pytest.LogCaptureFixture) -> None:
    error, log = LookupError("/tasks/7/"), logging.getLogger("django.request")
    log.warning("A line about %s", waiting)
    log.error("Failed: %s", error, exc_info=error)
    record = caplog.records[-1]
    assert record.args == (error,)
    assert record.exc_info
    assert record.exc_info[1] is error


@PLAIN
def test_a_host_that_is_not_served(browser: Browser, waiting: str) -> None:
    browser.headers["Host"] = "another.example"
    with override_settings(ALLOWED_HOSTS=["testserver"]):
        assert browser.get(waiting).status == 400
    assert len(mail.outbox) == 1
    assert "tasks/" in mail.outbox[0].body


@PLAIN
@pytest.mark.parametrize("name", ["django.server", "uvicorn.access"])
def test_requests_logged_by_a_server(waiting: str, name: str) -> None:
    path = waiting.removeprefix("http://testserver")
    logging.getLogger(name).info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", f"{path}?wait=5", "1.1", 200)
    logging.getLogger("gunicorn.access").info('"%(r)s" %(s)s', {"r": f"GET {path} HTTP/1.1", "s": "200"})


@PLAIN
def test_percent_encoding_hides_no_token(waiting: str) -> None:
    token = waiting.rstrip("/").rpartition("/")[2]
    logging.getLogger("django.server").info("/tasks/%s/", token)
    for hidden in (token.replace(".", "%2E"), token.replace("-", "%2D"), "".join(f"%{ord(char):x}" for char in token)):
        cleaned = without_tokens(f"GET /broker/tasks/{hidden}/response/ HTTP/1.1")
        assert hidden[-20:] not in cleaned
        assert cleaned.endswith("/response/ HTTP/1.1")


@PLAIN
def test_other_lines_stay_as_they_are(waiting: str) -> None:
    logging.getLogger("django.server").info("GET %s 100%%", waiting)
    for line in ("GET /tasks/7/ HTTP/1.1", "GET /broker/tasks/x/ 100%", "/tasks/9d8c3e08-9a5c-4a4e-9ad9-1f9ef3a8e7b0/"):
        assert without_tokens(line) == line
