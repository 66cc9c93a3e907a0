"""The result store was altered: the client gets the true response or a 410, and never another client's response."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import pytest
from celery import states
from django.contrib.auth.models import User
from django.test import Client
from django_celery_results.models import TaskResult
from hypothesis import strategies as st

from broker_core.message import ResponseMessage
from broker_django.messaging.sealing import from_text, seal_request, seal_response, to_text
from broker_django.models import DispatchRecord
from tests.fuzz.examples import fuzz
from tests.fuzz.mutations import BYTES, TEXT, Step, mutated, mutated_text
from tests.fuzz.test_messages import NESTED, REQUEST

SECRET = "marker-4111111111111111"
ANOTHERS = "marker-of-another"


@dataclass(frozen=True, slots=True)
class Payer:
    """A user who paid: the client, the dispatch, the URL of its response, and its row in the result store."""

    client: Client
    dispatch_id: str
    url: str
    stored: dict[str, Any]
    content: bytes

    @property
    def sealed(self) -> str:
        return str(json.loads(self.stored["result"])["sealed"])

    def put(self, **values: Any) -> None:
        TaskResult.objects.filter(task_id=self.dispatch_id).update(**{**self.stored, **values})

    def put_sealed(self, sealed: object) -> None:
        self.put(result=json.dumps({**json.loads(self.stored["result"]), "sealed": sealed}))

    def answer(self) -> bytes | None:
        """Returns the stored response, or None if it is gone."""
        response = self.client.get(self.url)
        assert response.status_code in {201, 410}, response.status_code
        if response.status_code == 410:
            assert response["Content-Type"] == "application/problem+json"
            return None
        return response.content


def payer(name: str, amount: str) -> Payer:
    client = Client()
    client.force_login(User.objects.create(username=name))
    secrets = {"Authorization": f"Bearer {amount}", "X-Secret": amount}
    document = client.post("/pay/?hidden=" + amount, {"amount": amount}, headers=secrets).json()
    stored = TaskResult.objects.values("result", "status", "content_type", "content_encoding", "meta", "traceback")
    url = document["links"]["response"]
    content = client.get(url).content
    assert amount.encode() in content
    return Payer(client, document["id"], url, stored.get(task_id=document["id"]), content)


@pytest.fixture
def one(db: None) -> Payer:
    return payer("one", SECRET)


@pytest.fixture
def other(one: Payer) -> Payer:
    return payer("other", ANOTHERS)


@fuzz(changes=BYTES, text_changes=TEXT)
def test_a_mutated_sealed_response(one: Payer, other: Payer, changes: list[Step], text_changes: list[Step]) -> None:
    data = mutated(from_text(one.sealed), changes, from_text(other.sealed))
    one.put_sealed(to_text(data))
    assert one.answer() == (one.content if data == from_text(one.sealed) else None)
    one.put_sealed(mutated_text(one.sealed, text_changes, other.sealed))
    assert one.answer() in {one.content, None}


@fuzz(changes=TEXT)
def test_a_mutated_row(one: Payer, other: Payer, changes: list[Step]) -> None:
    text = mutated_text(one.stored["result"], changes, other.stored["result"])
    one.put(result=text.encode("utf-8", "replace").decode())
    assert one.answer() in {one.content, None}


@fuzz(value=NESTED)
def test_any_json(one: Payer, value: Any) -> None:
    one.put_sealed(value)
    assert one.answer() is None
    one.put(result=json.dumps(value))
    assert one.answer() is None


TYPED = st.builds(
    lambda kind, value: {"__type__": kind, "__value__": value},
    st.sampled_from(["uuid", "datetime", "date", "time", "Decimal", "bytes", "base64", "nothing"]),
    NESTED,
)
EXCEPTIONS = st.fixed_dictionaries(
    {
        "exc_type": st.sampled_from(["system", "eval", "Exception", "SystemExit", "KeyboardInterrupt", ""]) | NESTED,
        "exc_module": st.sampled_from(["os", "posix", "builtins", "celery.exceptions", "nowhere", None]) | NESTED,
        "exc_message": st.just("touch executed") | NESTED,
    }
)
STATES = sorted(states.ALL_STATES)


@fuzz(
    result=(TYPED | EXCEPTIONS | NESTED).map(json.dumps)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.none(),
    status=st.sampled_from([*STATES, "", "executed"]),
    content_type=st.sampled_from(
        ["application/json", "application/x-python-serialize", "application/x-yaml", "application/data", "", "x/y"]
    ),
    encoding=st.sampled_from(["utf-8", "binary", "base64", "rot13", "nonsense", "", "utf-16"]),
    meta=st.sampled_from(["{}", "[]", "null", "", '{"children": [1]}', None]) | NESTED.map(json.dumps),
    whole=st.booleans(),
)
def test_any_columns(
    one: Payer, result: str | None, status: str, content_type: str, encoding: str, meta: str | None, whole: bool
) -> None:
    one.put(
        status=status,
        content_type=content_type,
        content_encoding=encoding,
        meta=meta,
        result=one.stored["result"] if whole else result,
    )
    assert one.answer() in {one.content, None}


def test_another_clients_response_is_not_returned(one: Payer, other: Payer) -> None:
    one.put(**other.stored)
    assert one.answer() is None
    one.put_sealed(other.sealed)
    assert one.answer() is None


def test_a_message_sealed_for_another_purpose_is_no_response(one: Payer) -> None:
    one.put_sealed(to_text(seal_request(REQUEST, one.dispatch_id, "payment")))
    assert one.answer() is None
    one.put_sealed(seal_response(ResponseMessage(200), one.dispatch_id.upper(), 1))
    assert one.answer() is None
    one.put_sealed(to_text(bytes(DispatchRecord.objects.get(pk=one.dispatch_id).sealed)))
    assert one.answer() is None


@fuzz(kept=st.binary(min_size=1, max_size=80), changes=TEXT)
def test_a_mutated_response_that_the_ledger_keeps(one: Payer, other: Payer, kept: bytes, changes: list[Step]) -> None:
    row = DispatchRecord.objects.filter(pk=one.dispatch_id)
    text = mutated_text(one.sealed, changes, other.sealed)
    for data in (kept, text.encode("utf-8", "surrogatepass"), other.sealed.encode()):
        row.update(kept_response=data)
        assert one.answer() in ({one.content, None} if data else {one.content})


@pytest.fixture
def strangers(one: Payer, other: Payer) -> list[Client]:
    return [Client(), other.client]


@fuzz(
    changes=TEXT,
    endpoint=st.sampled_from(["", "response/", "events/"]),
    method=st.sampled_from(["GET", "HEAD", "DELETE", "POST"]),
    place=st.sampled_from(["result", "sealed", "swapped"]),
)
def test_no_secret_is_sent_to_strangers_or_logged(
    one: Payer,
    other: Payer,
    strangers: list[Client],
    caplog: pytest.LogCaptureFixture,
    changes: list[Step],
    endpoint: str,
    method: str,
    place: str,
) -> None:
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    if place == "result":
        one.put(result=mutated_text(one.stored["result"], changes).encode("utf-8", "replace").decode())
    elif place == "sealed":
        one.put_sealed(mutated_text(one.sealed, changes, other.sealed))
    else:
        one.put(**other.stored)
        other.put(**one.stored)
    url = one.url.removesuffix("response/")
    for stranger in strangers:
        response: Any = stranger.generic(method, url + endpoint)
        assert response.status_code in {404, 405}
        assert not response.streaming
        assert SECRET.encode() not in response.content
    for seen in (one, other):
        assert seen.answer() in {seen.content, None}
    logged = caplog.text + "".join(repr(record.__dict__) for record in caplog.records)
    assert SECRET not in logged
    assert ANOTHERS not in logged
    other.put()
