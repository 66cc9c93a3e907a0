"""Owners of dispatches, and sessions that begin or end in a worker."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest
from django.core.signing import Signer, b62_encode

from tests.acceptance.conftest import PATIENCE, done, log_in
from tests.acceptance.prepare import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.acceptance.conftest import Site


@pytest.fixture
def ada(asgi_site: Site) -> Iterator[httpx.Client]:
    with asgi_site.client() as client:
        yield log_in(client, "ada")


def who(client: httpx.Client) -> str:
    return client.get("/echo/").json()["user"]


def endpoints(accepted: httpx.Response) -> list[str]:
    return sorted(set(accepted.json()["links"].values()))


def test_a_dispatch_is_there_for_its_owner_in_any_session(ada: httpx.Client, asgi_site: Site) -> None:
    accepted = ada.post("/pay/")
    done(ada, accepted)
    with asgi_site.client() as elsewhere:
        log_in(elsewhere, "ada")
        assert [elsewhere.get(url).status_code for url in endpoints(accepted)] == [200, 200, 201]


@pytest.mark.parametrize("other", ["grace", None])
def test_a_dispatch_is_not_found_by_other_users(ada: httpx.Client, asgi_site: Site, other: str | None) -> None:
    accepted = ada.post("/pay/")
    with asgi_site.client() as stranger:
        if other:
            log_in(stranger, other)
        assert {stranger.get(url).status_code for url in endpoints(accepted)} == {404}
        assert stranger.delete(accepted.headers["Location"]).status_code == 404
    assert done(ada, accepted)["state"] == "succeeded"


def test_a_dispatch_that_is_not_yours_looks_like_one_that_never_was(ada: httpx.Client, asgi_site: Site) -> None:
    accepted = ada.post("/pay/")
    with asgi_site.client() as stranger:
        hidden = stranger.get(accepted.headers["Location"])
        absent = stranger.get(f"/broker/tasks/{token(uuid.uuid4())}/")
    assert hidden.json() == absent.json()
    assert hidden.headers["Content-Type"] == "application/problem+json"


def token(dispatch_id: uuid.UUID, key: str | None = None) -> str:
    signer = Signer(key=key, sep=".", salt="request_broker.token")
    return signer.sign(f"{dispatch_id.hex}-{b62_encode(int(time.time()))}")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(token(uuid.uuid4()), id="signed but unknown"),
        pytest.param(token(uuid.uuid4(), "another key"), id="signed elsewhere"),
        pytest.param("a" * 10_000, id="10 kB"),
        pytest.param(uuid.uuid4().hex, id="unsigned"),
        pytest.param(f"{uuid.uuid4().hex}.", id="empty signature"),
        pytest.param("%00%ff", id="bytes"),
    ],
)
def test_a_token_that_was_not_issued_is_not_found(ada: httpx.Client, text: str) -> None:
    for url in (f"/broker/tasks/{text}/", f"/broker/tasks/{text}/response/", f"/broker/tasks/{text}/events/"):
        assert ada.get(url).status_code == 404


def test_the_signature_of_one_dispatch_is_invalid_for_another(ada: httpx.Client) -> None:
    first, second = (ada.post("/pay/").headers["Location"].split("/")[-2].split(".") for _ in range(2))
    assert ada.get(f"/broker/tasks/{first[0]}.{second[1]}/").status_code == 404
    assert ada.get(f"/broker/tasks/{first[0]}.{first[1]}/").status_code == 200


def test_a_queued_view_runs_as_the_user_who_sent_it(ada: httpx.Client) -> None:
    accepted = ada.get("/echo/", headers={"X-Queue": "bulk"})
    assert ada.get(done(ada, accepted)["links"]["response"]).json()["user"] == "ada"


def test_logging_in_within_a_queued_view_logs_the_client_in(asgi_site: Site) -> None:
    with asgi_site.client() as client:
        accepted = client.post(
            "/log-in/", data={"username": "ada", "password": PASSWORD}, headers={"X-Queue": "payment"}
        )
        document = done(client, accepted)
        assert who(client) == ""
        response = client.get(document["links"]["response"])
        assert response.text == "in"
        assert "sessionid" in response.cookies
        assert who(client) == "ada"
        assert client.get("/flashes/").json() == {"messages": ["Welcome back."]}


def test_logging_out_within_a_queued_view_logs_the_client_out(ada: httpx.Client) -> None:
    session = ada.cookies["sessionid"]
    accepted = ada.post("/log-out/", headers={"X-Queue": "payment"})
    document = done(ada, accepted)
    assert ada.get(document["links"]["response"]).text == "out"
    assert "sessionid" not in ada.cookies
    assert who(ada) == ""
    ada.cookies.set("sessionid", session)
    assert who(ada) == "", "the session itself has ended"


def test_logging_in_and_out_while_the_client_waits(asgi_site: Site) -> None:
    wait = {"X-Queue": "payment", "Prefer": f"wait={PATIENCE}"}
    with asgi_site.client() as client:
        assert client.post("/log-in/", data={"username": "ada", "password": PASSWORD}, headers=wait).text == "in"
        assert who(client) == "ada"
        assert client.post("/log-out/", headers=wait).text == "out"
        assert who(client) == ""


def test_a_session_is_the_same_now_and_later(ada: httpx.Client) -> None:
    wait = {"X-Queue": "realtime", "Prefer": f"wait={PATIENCE}"}
    counts = [ada.post("/count/", headers=headers).text for headers in ({}, wait, {}, wait)]
    assert counts == ["1", "2", "3", "4"]


def test_a_post_without_its_csrf_token_is_not_accepted(ada: httpx.Client) -> None:
    assert ada.post("/pay-with-csrf/").status_code == 403
