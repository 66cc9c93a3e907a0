"""A stored response is what the server would have sent. Responses that it cannot send fail when they are created."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.acceptance.conftest import done
from tests.acceptance.views import ODD

if TYPE_CHECKING:
    from tests.acceptance.conftest import StartSite, Worker

REFUSED = 500, "application/problem+json", "failed"


def answer(client: httpx.Client, method: str, url: str) -> Any:
    """Returns the response as the client gets it; None if it gets none, or only a part."""
    try:
        response = client.request(method, url, timeout=2)
    except httpx.TransportError:
        return None
    fields = [response.headers.get(name) for name in ("Content-Type", "Content-Length", "Set-Cookie")]
    return response.status_code, *fields, response.content


@pytest.mark.parametrize("interface", ["asgi", "wsgi", "gthread"])
def test_a_stored_response_is_sent_like_a_direct_one(start_site: StartSite, worker: Worker, interface: str) -> None:
    site = start_site(interface)
    site.process.ready()
    for name in ODD:
        with site.client() as client:
            directly = answer(client, "POST", f"/odd/{name}/")
        with site.client() as client:
            document = done(client, client.post(f"/odd/{name}/", headers={"X-Queue": "once"}))
            polled = answer(client, "GET", document["links"]["response"])
        if directly is None or directly[0] == 500:
            assert (*polled[:2], document["state"]) == REFUSED, name
        else:
            assert polled == directly, name
