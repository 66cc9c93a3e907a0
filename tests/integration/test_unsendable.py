"""Responses that no server could send are refused when they are made, and those that are odd are kept."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt

from broker_django.models import DispatchRecord
from tests.integration.test_endpoints import path_of
from tests.site.models import Execution

if TYPE_CHECKING:
    from collections.abc import Callable


def _status(response: HttpResponse) -> None:
    response.status_code = 101


def _header(value: str) -> Callable[[HttpResponse], None]:
    def spoil(response: HttpResponse) -> None:
        response.headers._store["x-split"] = ("X-Split", value)

    return spoil


def _name(response: HttpResponse) -> None:
    response["A b"] = "1"


def _reason(response: HttpResponse) -> None:
    response._reason_phrase = "OK\r\nSet-Cookie: a=b"  # newer versions of Django check the property


def _cookie(response: HttpResponse) -> None:
    response.set_cookie("a", "b")
    dict.__setitem__(response.cookies["a"], "path", "/\r\nX-Split: 1")


UNSENDABLE: dict[str, Callable[[HttpResponse], None]] = {
    "switching": _status,
    "line break": _header("a\r\nSet-Cookie: a=b"),
    "line feed": _header("a\nb"),
    "nul": _header("a\0b"),
    "name": _name,
    "reason": _reason,
    "reason beyond latin-1": lambda response: setattr(response, "reason_phrase", "Schön €"),
    "cookie": _cookie,
    "early hints": lambda response: setattr(response, "status_code", 103),
}
ODD: dict[str, Callable[[HttpResponse], None]] = {
    "lazy reason": lambda response: setattr(response, "_reason_phrase", gettext_lazy("Yes")),
    "named status": lambda response: setattr(response, "status_code", HTTPStatus.ACCEPTED),
    "lazy header": lambda response: response.__setitem__("X-Lazy", gettext_lazy("Yes")),
    "empty reason": lambda response: setattr(response, "reason_phrase", ""),
    "tab": _header("a\tb"),
    "no content": lambda response: setattr(response, "status_code", 204),
}


@csrf_exempt
def spoilt(request: HttpRequest, name: str) -> HttpResponse:
    Execution.objects.create(dispatch=str(request.broker.id or ""))
    response = HttpResponse("body")
    (UNSENDABLE | ODD)[name](response)
    return response


urlpatterns = [path("spoilt/<str:name>/", spoilt), path("broker/", include("broker_django.urls"))]


@pytest.fixture(autouse=True)
def queued() -> Any:
    rules = [{"when": 'request.path.startsWith("/spoilt/")', "queue": "bulk"}]
    with override_settings(ROOT_URLCONF=__name__, REQUEST_BROKER={"RULES": rules}):
        yield


@pytest.mark.parametrize("name", UNSENDABLE)
def test_what_no_server_could_send_fails_the_dispatch_and_is_not_handed_out(client: Client, name: str) -> None:
    assert client.get(f"/spoilt/{name}/").status_code == 202
    record = DispatchRecord.objects.get()
    assert (record.state, record.attempts, Execution.objects.count()) == ("failed", 1, 1)
    response = client.get(path_of(record, "response/"))
    assert (response.status_code, response["Content-Type"]) == (500, "application/problem+json")
    assert response.json()["detail"] == record.error


@pytest.mark.parametrize("name", ODD)
def test_what_is_only_odd_is_kept(client: Client, name: str) -> None:
    assert client.get(f"/spoilt/{name}/").status_code == 202
    with override_settings(REQUEST_BROKER={}):
        direct = client.get(f"/spoilt/{name}/")
    record = DispatchRecord.objects.get()
    assert (record.state, record.attempts) == ("succeeded", 1)
    response = client.get(path_of(record, "response/"))
    assert (response.status_code, response.reason_phrase) == (direct.status_code, str(direct.reason_phrase))
    assert response.get("X-Lazy") == direct.get("X-Lazy")
    assert response.get("X-Split") == direct.get("X-Split")
