"""No cache keeps responses of the endpoints, unless the view allows it for this client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.http import HttpResponse
from django.test import override_settings

from broker_django.http.cache_headers import forbid_shared_caching
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.endpoints.clients import Browser


@pytest.mark.parametrize(
    ("said", "goes_out"),
    [
        ({}, "private, no-store"),
        ({"Cache-Control": ""}, "private, no-store"),
        ({"Expires": "Thu, 01 Jan 2099 00:00:00 GMT"}, "private"),
        ({"Cache-Control": "private"}, "private"),
        ({"Cache-Control": "Private, max-age=60"}, "Private, max-age=60"),
        ({"Cache-Control": "max-age=60"}, "max-age=60, private"),
        ({"Cache-Control": "public, max-age=60"}, "max-age=60, private"),
        ({"Cache-Control": "PUBLIC"}, "private"),
        ({"Cache-Control": "private, public, s-maxage=9"}, "private"),
        ({"Cache-Control": "s-maxage=600, max-age=0"}, "max-age=0, private"),
        ({"Cache-Control": "no-cache"}, "no-cache, private"),
        ({"Cache-Control": "no-store"}, "no-store, private"),
        ({"Cache-Control": 'private="Set-Cookie, Vary", max-age=5'}, "max-age=5, private"),
        ({"Cache-Control": 'no-cache="Set-Cookie, public"'}, 'no-cache="Set-Cookie, public", private'),
        ({"Cache-Control": "private", "CDN-Cache-Control": "max-age=600"}, "private"),
        ({"Surrogate-Control": "max-age=600", "X-Accel-Expires": "600"}, "private, no-store"),
    ],
)
def test_cache_headers_of_a_view_apply_to_one_client(said: dict[str, str], goes_out: str) -> None:
    response = HttpResponse(headers=said)
    forbid_shared_caching(response)
    assert response["Cache-Control"] == goes_out
    assert not {"CDN-Cache-Control", "Surrogate-Control", "X-Accel-Expires"}.intersection(response.headers)
    assert ("Cookie" in response.get("Vary", "")) is ("no-store" not in goes_out)


HELD = {"RULES": [{"when": "true", "queue": "bulk"}], "QUEUES": {"bulk": {"wait": 5}}}


@pytest.mark.parametrize("project", ["site-wide cache"], indirect=True)
def test_a_site_wide_cache_does_not_reveal_the_session_of_a_held_client(
    new_browser: Callable[[], Browser],
) -> None:
    first, second = new_browser(), new_browser()
    with override_settings(REQUEST_BROKER=HELD):
        assert (first.get("/count/").text, second.get("/count/").text) == ("1", "1")
    assert first.cookies["sessionid"].value != second.cookies["sessionid"].value


@pytest.mark.parametrize("project", ["site-wide cache"], indirect=True)
def test_a_site_wide_cache_keeps_no_status(browser: Browser, waiting: str) -> None:
    assert browser.get(waiting).json()["state"] == "queued"
    DispatchRecord.objects.update(state="running")
    assert browser.get(waiting).json()["state"] == "running"
