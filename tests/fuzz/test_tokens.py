"""Tokens that were not issued here: every endpoint answers with the same 404."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client
from django_celery_results.models import TaskResult
from hypothesis import assume
from hypothesis import strategies as st

from broker_django.models import DispatchRecord
from tests.fuzz.examples import fuzz
from tests.fuzz.mutations import TEXT, Step, mutated_text

MARKER = "4111-1111-1111-1111"
ENDPOINTS = st.sampled_from(["", "response/", "events/"])
METHODS = st.sampled_from(["GET", "HEAD", "DELETE", "POST", "PUT", "PATCH", "OPTIONS", "TRACE", "BREW"])
ALLOWED = {"": {"GET", "HEAD", "DELETE"}, "response/": {"GET", "HEAD"}, "events/": {"GET"}}


@pytest.fixture
def issued(db: None, client: Client, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Returns the tokens of a finished and of a waiting dispatch."""
    done = client.post("/pay/", {"amount": MARKER})
    with monkeypatch.context() as patch:
        patch.setattr("broker_django.admission.handover.run_eagerly", lambda *_args, **_kwargs: None)
        waits = client.post("/pay/", {"amount": MARKER})
    one, other = (response["Location"].rstrip("/").rpartition("/")[2] for response in (done, waits))
    return one, other


def is_of_no_dispatch(token: str, endpoint: str, method: str, query: str = "") -> None:
    before = everything()
    url = f"/broker/tasks/{quote(token, safe='', errors='replace')}/{endpoint}"
    response: Any = Client().generic(method, url, QUERY_STRING=query)
    assert response.status_code == 404 or (response.status_code == 405 and method not in ALLOWED[endpoint])
    assert not response.streaming
    assert MARKER.encode() not in response.content
    assert b"/pay/" not in response.content
    assert everything() == before


def everything() -> list[Any]:
    return [list(DispatchRecord.objects.order_by("pk").values()), list(TaskResult.objects.order_by("pk").values())]


def test_an_issued_token_is_known(issued: tuple[str, str], client: Client) -> None:
    states = [client.get(f"/broker/tasks/{token}/").json()["state"] for token in issued]
    assert states == ["succeeded", "queued"]


@fuzz(changes=TEXT, endpoint=ENDPOINTS, method=METHODS, turned=st.booleans())
def test_a_mutated_token(
    issued: tuple[str, str], changes: list[Step], endpoint: str, method: str, turned: bool
) -> None:
    one, other = reversed(issued) if turned else issued
    token = mutated_text(one, changes, other)
    assume(token not in issued)
    assume("/" not in token)
    is_of_no_dispatch(token, endpoint, method)


@fuzz(
    token=st.text(st.characters(exclude_characters="/"), max_size=300)
    | st.from_regex(r"[A-Za-z0-9._-]{1,220}", fullmatch=True)
    | st.uuids().map(str),
    endpoint=ENDPOINTS,
    method=METHODS,
    query=st.sampled_from(["", "wait=9", "wait=-1", "token=x"]),
)
def test_any_other_token(issued: tuple[str, str], token: str, endpoint: str, method: str, query: str) -> None:
    is_of_no_dispatch(token, endpoint, method, query)


@fuzz(parts=st.permutations(range(4)), sizes=st.lists(st.integers(0, 40), min_size=2, max_size=2), endpoint=ENDPOINTS)
def test_pieces_of_two_tokens(issued: tuple[str, str], parts: list[int], sizes: list[int], endpoint: str) -> None:
    one, other = issued
    pieces = [one[: sizes[0]], one[sizes[0] :], other[: sizes[1]], other[sizes[1] :]]
    for count in (2, 4):
        token = "".join(pieces[part] for part in parts[:count])
        if token not in issued:
            is_of_no_dispatch(token, endpoint, "GET")
