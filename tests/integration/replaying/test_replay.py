"""A replayed view sees the same request as a view called directly, and its response arrives unchanged."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import AsyncClient, Client, override_settings

from broker_django.models import DispatchRecord

DIFFERS = {"broker"}


def seen(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.content
    return {key: value for key, value in response.json().items() if key not in DIFFERS}


FORM = "application/x-www-form-urlencoded"
REQUESTS: dict[str, dict[str, Any]] = {
    "query": {"method": "GET", "path": "/echo/?a=1&a=2&b=%C3%BC&empty="},
    "unicode path": {"method": "GET", "path": "/echo/%C3%BCbung/"},
    "percent in path": {"method": "GET", "path": "/echo/50%25/"},
    "broken utf-8 in path": {"method": "GET", "path": "/echo/%FF/"},
    "form": {"method": "POST", "path": "/echo/", "data": "a=1&a=2&b=%E2%82%AC", "content_type": FORM},
    "json": {"method": "PUT", "path": "/echo/", "data": '{"a": "ü"}', "content_type": "application/json"},
    "empty body": {"method": "DELETE", "path": "/echo/"},
    "headers": {"method": "GET", "path": "/echo/", "headers": {"X-Name": "J\xfcrgen", "X-Empty": ""}},
    "https": {"method": "GET", "path": "/echo/", "secure": True},
    "other host": {"method": "GET", "path": "/echo/", "headers": {"Host": "shop.example:8443"}},
    "options": {"method": "OPTIONS", "path": "/echo/"},
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_replayed_view_sees_the_same_request(client: Client, everything_queued: None, name: str) -> None:
    request = dict(REQUESTS[name])
    replayed = client.generic(**request)
    with override_settings(REQUEST_BROKER={}):
        direct = client.generic(**request)
    assert seen(replayed) == seen(direct)
    assert replayed.json()["broker"]["replayed"] is True
    assert direct.json()["broker"]["replayed"] is False


@pytest.mark.parametrize("name", sorted(set(REQUESTS) - {"other host"}))  # the test client sends its own host as well
def test_a_replayed_view_sees_the_same_request_under_asgi(
    async_client: AsyncClient, everything_queued: None, name: str
) -> None:
    request = dict(REQUESTS[name])
    send = async_to_sync(async_client.generic)
    replayed = send(**request)
    with override_settings(REQUEST_BROKER={}):
        direct = send(**request)
    assert seen(replayed) == seen(direct)
    assert seen(replayed)["class"] == "ASGIRequest"
    assert replayed.json()["broker"]["replayed"] is True


def test_the_client_address_and_remote_user_are_kept(client: Client, everything_queued: None) -> None:
    response = client.get("/echo/", REMOTE_ADDR="203.0.113.9")
    assert seen(response)["client"] == "203.0.113.9"


def test_the_script_name_is_kept(client: Client, everything_queued: None) -> None:
    response = seen(client.get("/echo/", SCRIPT_NAME="/m\xc3\xb6bel"))
    assert response["script_name"] == "/möbel"
    assert response["absolute"] == "http://testserver/m%C3%B6bel/echo/"


def test_the_language_is_the_clients(client: Client, everything_queued: None) -> None:
    response = seen(client.get("/echo/", headers={"Accept-Language": "de"}))
    assert (response["language"], response["greeting"]) == ("de", "Ja")


def test_uploads_arrive_byte_for_byte(client: Client, everything_queued: None) -> None:
    content = bytes(range(256)) * 50
    data = {"note": "grün", "file": SimpleUploadedFile("übersicht.bin", content, "application/octet-stream")}
    replayed = seen(client.post("/echo/", data))
    [[name, size, digest]] = replayed["files"]["file"]
    assert (name, size) == ("übersicht.bin", len(content))
    assert digest == hashlib.sha256(content).hexdigest()
    assert replayed["post"] == {"note": ["grün"]}


def test_an_upload_arrives_after_csrf_has_parsed_the_form(everything_queued: None) -> None:
    client = Client(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = "a" * 32
    form = {"csrfmiddlewaretoken": "a" * 32, "file": SimpleUploadedFile("a.txt", b"abc")}
    response = client.post("/pay-with-csrf/", form)
    assert (response.status_code, response.content) == (200, b"paid")
    assert DispatchRecord.objects.count() == 1


def test_a_raw_body_arrives_byte_for_byte(client: Client, everything_queued: None) -> None:
    body = bytes(range(256)) * 100
    response = client.post("/body/", body, content_type="application/octet-stream")
    assert response.content == body


def test_binary_headers_are_kept(client: Client, everything_queued: None) -> None:
    response = client.get("/echo/", HTTP_X_BINARY="".join(map(chr, range(1, 256))).replace("\n", "").replace("\r", ""))
    assert response.status_code == 200


def test_a_broken_multipart_body_gets_djangos_own_answer(client: Client, everything_queued: None) -> None:
    broken = client.generic(
        "POST", "/echo/", b"--x\r\nnonsense", content_type="multipart/form-data; boundary=" + "x" * 300
    )
    with override_settings(REQUEST_BROKER={}):
        direct = client.generic(
            "POST", "/echo/", b"--x\r\nnonsense", content_type="multipart/form-data; boundary=" + "x" * 300
        )
    assert broken.status_code == direct.status_code == 400


def test_redirects_keep_their_class(client: Client, everything_queued: None) -> None:
    response = client.get("/moved/")
    assert (response.status_code, response.url) == (302, "/echo/?from=moved")
    assert client.get("/moved-for-good/").status_code == 301
    assert client.get("/moved/", follow=True).redirect_chain == [("/echo/?from=moved", 302)]


def test_status_reason_and_headers_arrive_as_they_are(client: Client, everything_queued: None) -> None:
    response = client.get("/teapot/")
    assert (response.status_code, response.reason_phrase) == (418, "I'm a teapot")
    assert (response["X-Tea"], response.content) == ("Assam", b"short and stout")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/stream/5000/", b"x" * 5000),
        ("/async-stream/", b"chunk 0\nchunk 1\nchunk 2\n"),
        ("/download/", b"%PDF-1.4 " * 100),
    ],
)
def test_streams_and_files_are_read_to_the_end(
    client: Client, everything_queued: None, path: str, expected: bytes
) -> None:
    response = client.get(path)
    with override_settings(REQUEST_BROKER={}):
        direct = client.get(path)
    assert b"".join(response) == expected
    assert response["Content-Type"] == direct["Content-Type"]
    assert response.get("Content-Disposition") == direct.get("Content-Disposition")


def test_a_stream_above_the_cap_fails_the_dispatch(client: Client) -> None:
    with override_settings(REQUEST_BROKER={"RULES": [{"when": "true", "queue": "bulk"}], "MAX_RESPONSE_SIZE": 4000}):
        accepted = client.get("/stream/9000/")
        document = client.get(accepted["Location"]).json()
        stored = client.get(document["links"]["response"])
    assert (document["state"], document["response"]["status"]) == ("failed", 500)
    assert "4000 bytes" in document["error"]
    assert stored["Content-Type"] == "application/problem+json"


def test_head_has_no_body_and_the_headers_of_get(client: Client, everything_queued: None) -> None:
    response = client.head("/echo/")
    assert (response.status_code, response.content) == (200, b"")
    assert response["Content-Type"] == "application/json"


def test_cookies_arrive_as_they_were_set(client: Client, everything_queued: None) -> None:
    replayed = client.get("/cookies/").cookies.output()
    with override_settings(REQUEST_BROKER={}):
        direct = client.get("/cookies/").cookies.output()
    without_dates = [line for line in replayed.splitlines() if "signed" not in line]
    assert without_dates == [line for line in direct.splitlines() if "signed" not in line]
    assert "SameSite=Strict" in replayed and "Secure" in replayed


def test_a_view_that_raises_fails_the_dispatch_and_answers_as_django_does(client: Client) -> None:
    client.raise_request_exception = False
    with override_settings(REQUEST_BROKER={"RULES": [{"when": "true", "queue": "bulk"}]}):
        document = client.get(client.get("/broken/")["Location"]).json()
        stored = client.get(document["links"]["response"])
    assert (document["state"], document["error"]) == ("failed", "RuntimeError")
    assert stored.status_code == 500
    assert b"secret detail" not in stored.content


def test_an_interrupted_stream_fails_the_dispatch(client: Client) -> None:
    with override_settings(REQUEST_BROKER={"RULES": [{"when": "true", "queue": "bulk"}]}):
        document = client.get(client.get("/broken-stream/")["Location"]).json()
    assert (document["state"], document["error"]) == ("failed", "RuntimeError")
    assert client.get(document["links"]["response"]).status_code == 500
