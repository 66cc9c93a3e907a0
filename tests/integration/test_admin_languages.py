"""The admin in German and French: no English is left on its pages."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from broker_core.dispatches import State
from broker_django.models import AttemptRecord, DispatchRecord, Router
from tests.forms import router_form

if TYPE_CHECKING:
    from django.test import Client

pytestmark = pytest.mark.django_db

ROUTERS, DISPATCHES = "/admin/broker_django/router/", "/admin/broker_django/dispatchrecord/"


@pytest.fixture(autouse=True)
def languages(settings: Any) -> None:
    settings.LANGUAGES = [("en", "English"), ("de", "German"), ("fr", "French")]
    settings.TIME_ZONE = "UTC"


def text_of(client: Client, url: str, language: str = "de", **data: Any) -> str:
    """Returns the page's text, without its tags."""
    page = client.get(url, data, headers={"accept-language": language}).content.decode()
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def dispatch(**values: Any) -> DispatchRecord:
    at = datetime(2026, 11, 26, 18, 17, 29, 123_000, tzinfo=UTC)
    moments = {"accepted_at": at, "started_at": at, "finished_at": at}
    fields = {"queue": "bulk", "method": "POST", "path": "/x/", "sealed": b"s", "attempts": 2, "worker": "one"}
    record = DispatchRecord.objects.create(id=uuid.uuid4(), **{"state": State.SUCCEEDED, **fields, **moments, **values})
    AttemptRecord.objects.create(dispatch=record, number=1, worker="one", started_at=at, ended_at=at, error="Oh")
    record.actions.create(at=at, action="retry", actor="ada")
    return record


def test_the_history_of_a_dispatch_is_german(admin_client: Client) -> None:
    shown = text_of(admin_client, f"{DISPATCHES}{dispatch(response_status=200).pk}/change/")
    for text in (
        "in der Warteschlange 26. November 2026 18:17:29,123 auf bulk, durch request",
        "läuft 26. November 2026 18:17:29,123 Versuch 1 auf one",
        "erneut, durch ada",
        "erfolgreich 26. November 2026 18:17:29,123 Antwort 200",
        "erneut ausgeführt 26. November 2026 18:17:29 durch ada",
        "Fälligkeit",
        "Versuche",
    ):
        assert text in shown


def test_the_history_of_a_dispatch_is_french(admin_client: Client) -> None:
    shown = text_of(admin_client, f"{DISPATCHES}{dispatch(response_status=200).pk}/change/", "fr")
    assert "en cours 26 novembre 2026 18:17:29,123 tentative 1 sur one" in shown


def test_filters_are_good_german(admin_client: Client) -> None:
    dispatch()
    shown = text_of(admin_client, DISPATCHES)
    for title in ("Fehler gescheiterter Aufträge", "Warteschlange", "Status", "Methode", "Annahme"):
        assert f"Nach {title}" in shown
    assert "endgültig" not in shown
    Router.objects.create(code="a", source="/a/", action="302")
    shown = text_of(admin_client, ROUTERS)
    for title in ("Aktivierung", "Aktion", "Besuchermerkmal"):
        assert f"Nach {title}" in shown


def test_the_form_of_a_router_is_german(admin_client: Client) -> None:
    shown = text_of(admin_client, f"{ROUTERS}add/")
    for label in ("Quelle", "Rang", "Aktion", "Bedingung", "Methoden", "Besuchermerkmal", "URL", "Gewicht"):
        assert label in shown
    for english in ("Source", "Rank", "Condition", "Sticky", "Weight", "Carry", "Append", "Description"):
        assert english not in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": "usr.is_staff"}, "Spalte 1: unbekannte Variable 'usr'; es gibt request, user, now."),
        ({"source": "a"}, "Eine Quelle muss mit einem Schrägstrich beginnen."),
        ({"queue": "none"}, "Es gibt keine Warteschlange 'none'. Die Warteschlangen sind"),
        ({"methods": "G€T"}, "'G€T' ist keine HTTP-Methode."),
        (
            {"destinations-0-url": "https://elsewhere.example/"},
            "Weiterleitungen zu elsewhere.example sind nicht erlaubt: siehe ALLOWED_REDIRECT_HOSTS.",
        ),
    ],
)
def test_messages_about_rows_are_german(admin_client: Client, changes: dict[str, str], message: str) -> None:
    row = Router.objects.create(code="a", source="/a/", action="302")
    row.destinations.create(url="/b/")
    data = router_form(row, **changes)
    page = admin_client.post(f"{ROUTERS}{row.pk}/change/", data, headers={"accept-language": "de"})
    assert message in unescape(page.content.decode())


def test_a_trial_is_german_whatever_the_language_of_the_request(admin_client: Client, settings: Any) -> None:
    settings.REQUEST_BROKER = {"RULES": [{"when": 'request.path == "/a/"', "queue": "bulk"}]}
    for code, rank in (("a", 1), ("b", 2)):
        Router.objects.create(code=code, source="/old/", rank=rank, action="302").destinations.create(url="/echo/")
    given = {"method": "GET", "headers": "Accept-Language: fr"}
    shown = text_of(admin_client, f"{ROUTERS}try/", path="/old/", **given)
    for text in ("Methode", "Pfad", "Header-Felder", "Benutzer", "Rang 1", "Router a kommt zuerst"):
        assert text in shown
    assert "Router a antwortet: 302 zu /echo/" in shown
    shown = text_of(admin_client, f"{ROUTERS}try/", path="/echo/", **given)
    assert "Regel 0" in shown
    assert "die Bedingung ist falsch" in shown
    assert "Die View läuft jetzt, wie ohne den Broker." in shown


def test_retrying_what_is_no_dead_letter_says_why(admin_client: Client) -> None:
    record = dispatch(state=State.CANCELLED)
    selected = {"action": "run_again", "_selected_action": str(record.pk)}
    page = admin_client.post(DISPATCHES, selected, follow=True).content.decode()
    assert "1 selected dispatch is left alone: dead letters are failed or expired, and not discarded." in page
    assert "0 dispatches" not in page
