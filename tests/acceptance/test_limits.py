"""A replay that does not end is stopped, and its worker continues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance.conftest import PATIENCE

if TYPE_CHECKING:
    import httpx


def test_a_view_that_ignores_its_time_limit_is_killed_and_the_dispatch_fails_in_the_end(client: httpx.Client) -> None:
    accepted = client.post("/endless/").json()["links"]
    document = client.get(accepted["self"], params={"wait": PATIENCE}).json()
    assert (document["state"], document["error"], document["attempts"]) == ("failed", "TimeLimitExceeded", 2)
    assert client.get(accepted["response"]).status_code == 410
    assert client.post("/pay/", data={"amount": "1"}, headers={"Prefer": "wait=10"}).status_code == 201
