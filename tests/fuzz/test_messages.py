"""Decoding any bytes returns a message that encodes to the same bytes, or raises MessageError."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import strategies as st

from broker_core.errors import MessageError
from broker_core.message import VERSION, VERSIONS, RequestMessage, ResponseMessage
from tests.fuzz.examples import CHEAP, fuzz
from tests.fuzz.mutations import BYTES, Step, mutated

REQUEST = RequestMessage(
    {"REQUEST_METHOD": "POST", "PATH_INFO": "/pay/", "HTTP_COOKIE": "a=1; b=\udcff", "CONTENT_LENGTH": "8"},
    b"amount=5",
    "https",
    "7",
    "asgi",
    view_user="8",
    csrf="checked",
    path="/pay/",
    route="/pay/",
    view="shop.views.pay",
    accepted_at=1.5,
    tenant="acme",
    principal={"session": {"acts": False}},
)
RESPONSE = ResponseMessage(
    201, "Created", (("Content-Type", "text/plain"), ("X-A", "\u00fc")), ("a=1; Path=/",), b"paid"
)
KINDS = st.sampled_from([RequestMessage, ResponseMessage])

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def head_of(encoded: bytes) -> bytes:
    return encoded[5 : 5 + struct.unpack_from(">I", encoded, 1)[0]]


def packed(head: bytes, body: bytes = b"", version: int = VERSION) -> bytes:
    return struct.pack(">BI", version, len(head)) + head + body


def is_message_or_refused(kind: type[RequestMessage | ResponseMessage], data: bytes) -> None:
    try:
        message = kind.decode(data)
    except MessageError:
        return
    assert kind.decode(message.encode()) == message


@fuzz(CHEAP, kind=KINDS, data=st.binary(max_size=300) | st.binary(max_size=100).map(packed))
def test_any_bytes(kind: Any, data: bytes) -> None:
    is_message_or_refused(kind, data)


@fuzz(CHEAP, kind=KINDS, changes=BYTES)
def test_a_mutated_message(kind: Any, changes: list[Step]) -> None:
    one, other = REQUEST.encode(), RESPONSE.encode()
    is_message_or_refused(kind, mutated(one, changes, other))
    is_message_or_refused(kind, mutated(other, changes, one))


@fuzz(CHEAP, kind=KINDS, changes=BYTES, body=st.binary(max_size=20))
def test_a_mutated_head_of_its_right_length(kind: Any, changes: list[Step], body: bytes) -> None:
    for message in (REQUEST, RESPONSE):
        is_message_or_refused(kind, packed(mutated(head_of(message.encode()), changes), body))


@fuzz(CHEAP, kind=KINDS, data=st.data())
def test_a_head_with_other_values(kind: Any, data: st.DataObject) -> None:
    head = json.loads(head_of((REQUEST if kind is RequestMessage else RESPONSE).encode()))
    for place in data.draw(st.lists(st.integers(0, len(head) - 1), max_size=3)):
        head[place] = data.draw(NESTED)
    is_message_or_refused(kind, packed(json.dumps(head).encode()))


@fuzz(CHEAP, kind=KINDS, version=st.sampled_from(sorted(VERSIONS)), number=st.integers(4, 13), data=st.data())
def test_a_head_of_any_version_and_length(kind: Any, version: int, number: int, data: st.DataObject) -> None:
    head = json.loads(head_of(REQUEST.encode()))[:number]
    head.insert(data.draw(st.integers(0, len(head))), data.draw(NESTED))
    is_message_or_refused(kind, packed(json.dumps(head).encode(), version=version))


@pytest.mark.parametrize("kind", [RequestMessage, ResponseMessage])
@pytest.mark.parametrize(
    "head", [b"[" * 1_000_000, b'{"a":' * 200_000, b"[1" + b"0" * 1_000_000 + b"]", b'"' + b"\\ud800" * 100_000 + b'"']
)
def test_a_head_that_is_deep_or_huge(kind: Any, head: bytes) -> None:
    is_message_or_refused(kind, packed(head))


@pytest.mark.parametrize("kind", [RequestMessage, ResponseMessage])
def test_a_head_that_says_it_is_huge(kind: Any) -> None:
    is_message_or_refused(kind, struct.pack(">BI", 1, 0xFFFFFFFF) + b"[]")
