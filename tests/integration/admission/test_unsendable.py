"""Responses that no server could send are refused when they are created. Odd but valid ones are kept."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt

from broker_django.models import DispatchRecord
from tests.integration.tracking.test_endpoints import path_of
from tests.site.models import Execution

if TYPE_CHECKING:
    from collections.abc import Callable

    Get = Callable[..., Any]


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


def _length(said: str) -> Callable[[HttpResponse], None]:
    return lambda response: response.__setitem__("Content-Length", said)


def _seen_at(path: str) -> Callable[[HttpResponse], None]:
    return lambda response: response.set_cookie("seen", "1", path=path)


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
    "status of four digits": lambda response: setattr(response, "status_code", 1000),
    "cookie beyond latin-1": lambda response: response.set_cookie("city", "Köln €"),
    "cookie's path beyond latin-1": _seen_at("/€/"),
    "no length": _length("abc"),
    "signed length": _length("-4"),
    "fractional length": _length("4.0"),
    "too long": _length("300"),
}
UNSENDABLE_UNDER_ASGI: dict[str, Callable[[HttpResponse], None]] = {
    "cookie's path": _seen_at("/büro/"),
    "too short": _length("3"),
    "unknown status": lambda response: setattr(response, "status_code", 799),
}
ODD: dict[str, Callable[[HttpResponse], None]] = {
    "lazy reason": lambda response: setattr(response, "_reason_phrase", gettext_lazy("Yes")),
    "named status": lambda response: setattr(response, "status_code", HTTPStatus.ACCEPTED),
    "lazy header": lambda response: response.__setitem__("X-Lazy", gettext_lazy("Yes")),
    "empty reason": lambda response: setattr(response, "reason_phrase", ""),
    "tab": _header("a\tb"),
    "space": _header("\ta b "),
    "no content": lambda response: setattr(response, "status_code", 204),
    "latin-1 in a cookie": lambda response: response.set_cookie("city", "Köln"),
    "the right length": _length("4"),
}


@csrf_exempt
def spoilt(request: HttpRequest, name: str) -> HttpResponse:
    Execution.objects.create(dispatch=str(request.broker.id or ""))
    response = HttpResponse("body")
    (UNSENDABLE | UNSENDABLE_UNDER_ASGI | ODD)[name](response)
    return response


def described(request: HttpRequest) -> HttpResponse:
    """Sets the Content-Length of a body that it does not create for HEAD."""
    text = b"" if request.method == "HEAD" else b"x" * 300
    return HttpResponse(text, headers={"Content-Length": "300"})


urlpatterns = [
    path("spoilt/<str:name>/", spoilt),
    path("spoilt/", described),
    path("broker/", include("broker_django.urls")),
]


@pytest.fixture(autouse=True)
def queued() -> Any:
    rules = [{"when": 'request.path.startsWith("/spoilt/")', "queue": "bulk"}]
    with override_settings(ROOT_URLCONF=__name__, REQUEST_BROKER={"RULES": rules}):
        yield


@pytest.fixture(params=["wsgi", "asgi"])
def get(request: pytest.FixtureRequest, client: Client) -> Get:
    """A client's method, over either interface."""
    return client.get if request.param == "wsgi" else async_to_sync(AsyncClient().get)


def refused(get: Get, name: str) -> None:
    """Assert that the response is refused, and a problem document returned instead."""
    assert get(f"/spoilt/{name}/").status_code == 202
    record = DispatchRecord.objects.get()
    assert (record.state, record.attempts, Execution.objects.count()) == ("failed", 1, 1)
    response = get(path_of(record, "response/"))
    assert (response.status_code, response["Content-Type"]) == (500, "application/problem+json")
    assert response.json()["detail"] == record.error


@pytest.mark.parametrize("name", UNSENDABLE)
def test_a_response_that_no_server_could_send_fails_the_dispatch(get: Get, name: str) -> None:
    refused(get, name)


@pytest.mark.parametrize("name", UNSENDABLE_UNDER_ASGI)
def test_a_response_that_no_asgi_server_could_send_is_refused_under_asgi(name: str) -> None:
    refused(async_to_sync(AsyncClient().get), name)


def test_a_response_that_wsgi_servers_send_is_returned(client: Client) -> None:
    sent = {}
    for name in UNSENDABLE_UNDER_ASGI:
        with override_settings(REQUEST_BROKER={**settings.REQUEST_BROKER, "QUEUES": {"bulk": {"max_attempts": 1}}}):
            links = client.get(f"/spoilt/{name}/").json()["links"]
        sent[name] = client.get(links["response"])
    assert (sent["too short"].content, sent["too short"]["Content-Length"]) == (b"bod", "3")
    assert (sent["unknown status"].status_code, sent["unknown status"].content) == (799, b"body")
    assert sent["cookie's path"].cookies["seen"]["path"] == "/büro/"


def test_white_space_around_a_field_is_not_sent_under_asgi() -> None:
    get = async_to_sync(AsyncClient().get)
    links = get("/spoilt/space/").json()["links"]
    assert get(links["response"])["X-Split"] == "a b"


def test_the_length_in_an_answer_to_head_is_that_of_a_get(client: Client) -> None:
    links = client.head("/spoilt/").headers["Location"] + "response/"
    assert client.head(links)["Content-Length"] == "300"
    assert client.get(links)["Content-Length"] == "0"


@pytest.mark.parametrize("name", ODD)
def test_odd_but_valid_responses_are_kept(get: Get, name: str) -> None:
    assert get(f"/spoilt/{name}/").status_code == 202
    with override_settings(REQUEST_BROKER={}):
        direct = get(f"/spoilt/{name}/")
    record = DispatchRecord.objects.get()
    assert (record.state, record.attempts) == ("succeeded", 1)
    response = get(path_of(record, "response/"))
    assert (response.status_code, response.reason_phrase) == (direct.status_code, str(direct.reason_phrase))
    assert response.get("X-Lazy") == direct.get("X-Lazy")
    assert response.get("X-Split", "").strip() == direct.get("X-Split", "").strip()
    assert response.cookies.output() == direct.cookies.output()
