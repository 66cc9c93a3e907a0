from __future__ import annotations

import itertools
import json
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.errors import MessageError
from broker_core.message import VERSION, VERSIONS, RequestMessage, ResponseMessage

# What Django leaves in a request: any text, and bytes that were no UTF-8 as low surrogates (PEP 383).
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
REQUESTS = st.builds(
    RequestMessage,
    environ=st.dictionaries(TEXT, TEXT, max_size=6),
    body=st.binary(max_size=200),
    scheme=st.sampled_from(["http", "https"]),
    user=st.none() | TEXT,
    protocol=st.sampled_from(["wsgi", "asgi"]),
    view_user=st.none() | TEXT,
    csrf=st.sampled_from(["unchecked", "checked", "waived"]),
    path=TEXT,
    route=TEXT,
    view=TEXT,
    accepted_at=st.floats(0, 4e9),
    tenant=TEXT,
    principal=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
RESPONSES = st.builds(
    ResponseMessage,
    status=st.integers(100, 999),
    reason=TEXT,
    headers=st.lists(st.tuples(TEXT, TEXT), max_size=6).map(tuple),
    cookies=st.lists(TEXT, max_size=3).map(tuple),
    body=st.binary(max_size=200),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


def packed(head: bytes, body: bytes = b"", version: int = VERSION) -> bytes:
    return struct.pack(">BI", version, len(head)) + head + body


def decoded(kind, data):
    """The message, or None for bytes that are refused. Any other exception fails the test."""
    try:
        return kind.decode(data)
    except MessageError:
        return None


@given(REQUESTS)
def test_a_request_is_decoded_as_it_was_encoded(message):
    assert RequestMessage.decode(message.encode()) == message


@given(RESPONSES)
def test_a_response_is_decoded_as_it_was_encoded(message):
    assert ResponseMessage.decode(message.encode()) == message


@given(REQUESTS, st.data())
def test_a_request_cut_within_its_head_is_refused(message, data):
    encoded = message.encode()
    end = len(encoded) - len(message.body)
    with pytest.raises(MessageError):
        RequestMessage.decode(encoded[: data.draw(st.integers(0, end - 1))])


@given(REQUESTS, st.data())
def test_a_changed_byte_gives_a_message_or_a_message_error(message, data):
    encoded = bytearray(message.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    decoded(RequestMessage, bytes(encoded))
    decoded(ResponseMessage, bytes(encoded))


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_refused(data):
    decoded(RequestMessage, data)
    decoded(ResponseMessage, data)


@given(JSON | st.lists(JSON, min_size=4, max_size=5))
def test_any_head_of_json_is_a_message_or_refused(head):
    encoded = json.dumps(head).encode()
    for kind, version in itertools.product((RequestMessage, ResponseMessage), VERSIONS):
        message = decoded(kind, packed(encoded, version=version))
        assert message is None or kind.decode(message.encode()) == message


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[" + b"1" * 10_000 + b",2,3,4]",
        b'["wsgi","http","checked","","","","",null,null,null,0,{"A":1}]',
        b'["wsgi","http","checked","","","","",null,null,null,0,["A"]]',
        b'["wsgi","http","checked","","","","",7,null,null,0,{}]',
        b'["wsgi","http","checked","","","","",null,7,null,0,{}]',
        b'["wsgi",null,"checked","","","","",null,null,null,0,{}]',
        b'["smtp","http","checked","","","","",null,null,null,0,{}]',
        b'[["wsgi"],"http","checked","","","","",null,null,null,0,{}]',
        b'["wsgi","http",true,"","","","",null,null,null,0,{}]',
        b'["wsgi","http",["waived"],"","","","",null,null,null,0,{}]',
        b'["wsgi","http","checked",null,"","","",null,null,null,0,{}]',
        b'["wsgi","http","checked","",1,"","",null,null,null,0,{}]',
        b'["wsgi","http","checked","","",[],"",null,null,null,0,{}]',
        b'["wsgi","http","checked","","","","",null,null,null,"0",{}]',
        b'["wsgi","http","checked","","","","",null,null,null,true,{}]',
        b'["wsgi","http","checked","","","","",null,null,null,-1,{}]',
        b'["wsgi","http","checked","","","","",null,null,null,NaN,{}]',
        b'["wsgi","http","checked","","","","",null,null,null,1e300,{}]',
        b'["wsgi","http","checked","","","",7,null,null,null,0,{}]',
        b'["wsgi","http","checked","","","",null,null,0,{}]',
        b'["wsgi","http",null]',
        b"[" + b"1" * 10_000 + b",2,3,4,5,6,7,8,9,10,11,12]",
    ],
)
def test_a_malformed_request_is_refused(head):
    with pytest.raises(MessageError):
        RequestMessage.decode(packed(head))


@pytest.mark.parametrize(
    "head",
    [
        b'[true,"",[],[]]',
        b'[99,"",[],[]]',
        b'[1000,"",[],[]]',
        b'[200.0,"",[],[]]',
        b'["200","",[],[]]',
        b"[200,null,[],[]]",
        b'[200,"",[["A"]],[]]',
        b'[200,"",["AB"],[]]',
        b'[200,"",[["A",1]],[]]',
        b'[200,"",[],["a",1]]',
        b'[200,"",[],"a"]',
    ],
)
def test_a_malformed_response_is_refused(head):
    with pytest.raises(MessageError):
        ResponseMessage.decode(packed(head))


@pytest.mark.parametrize("version", [0, VERSION + 1, 255])
@pytest.mark.parametrize("kind", [RequestMessage, ResponseMessage])
def test_another_version_is_refused(kind, version):
    with pytest.raises(MessageError, match=f"version {version}"):
        kind.decode(packed(b'["wsgi","http","unchecked","","","","",null,null,null,0,{}]', version=version))


@given(REQUESTS)
def test_a_request_of_version_1_is_decoded(message):
    """Newer fields have their defaults."""
    head = [message.protocol, message.scheme, message.user, message.view_user, message.csrf, message.environ]
    decoded = RequestMessage.decode(packed(json.dumps(head).encode(), message.body, version=1))
    assert decoded == replace(message, path="", route="", view="", accepted_at=0.0, tenant="", principal=None)
    assert RequestMessage.decode(decoded.encode()) == decoded


@given(REQUESTS)
def test_a_request_of_version_2_is_decoded(message):
    texts = [message.protocol, message.scheme, message.csrf, message.path, message.route, message.view]
    head = [*texts, message.user, message.view_user, message.accepted_at, message.environ]
    decoded = RequestMessage.decode(packed(json.dumps(head).encode(), message.body, version=2))
    assert decoded == replace(message, tenant="", principal=None)
    assert RequestMessage.decode(decoded.encode()) == decoded


@given(RESPONSES)
def test_a_response_of_any_version_is_decoded(message):
    head = json.dumps([message.status, message.reason, message.headers, message.cookies]).encode()
    assert {ResponseMessage.decode(packed(head, message.body, version)) for version in VERSIONS} == {message}


@pytest.mark.parametrize(
    "head",
    [
        b'{"A":1}',
        b'["wsgi","http",null,null,"checked"]',
        b'["wsgi","http","checked","","","",null,null,0,{}]',
        b'["smtp","http",null,null,"checked",{}]',
        b'["wsgi",null,null,null,"checked",{}]',
        b'["wsgi","http",7,null,"checked",{}]',
        b'["wsgi","http",null,7,"checked",{}]',
        b'["wsgi","http",null,null,true,{}]',
        b'["wsgi","http",null,null,"checked",{"A":1}]',
    ],
)
def test_a_malformed_request_of_version_1_is_refused(head):
    with pytest.raises(MessageError):
        RequestMessage.decode(packed(head, version=1))


@pytest.mark.parametrize(
    "head",
    [
        b'["wsgi","http",null,null,"checked",{}]',
        b'["wsgi","http","checked","","","","",null,null,null,0,{}]',
        b'["smtp","http","checked","","","",null,null,0,{}]',
        b'["wsgi","http","checked","","","",7,null,0,{}]',
        b'["wsgi","http","checked","","","",null,null,"0",{}]',
        b'["wsgi","http","checked","","","",null,null,0,{"A":1}]',
    ],
)
def test_a_malformed_request_of_version_2_is_refused(head):
    with pytest.raises(MessageError):
        RequestMessage.decode(packed(head, version=2))


def test_an_encoded_message_can_be_decoded():
    assert max(VERSIONS) == VERSION


def test_the_body_is_everything_after_the_head():
    assert (
        RequestMessage.decode(packed(b'["wsgi","http","unchecked","","","","",null,null,null,0,{}]', b"\x00[{")).body
        == b"\x00[{"
    )


def test_the_content_type_is_found_in_any_case():
    assert ResponseMessage(200, headers=(("A", "b"), ("CONTENT-type", "text/css"))).content_type == "text/css"
    assert ResponseMessage(204).content_type == ""


def test_a_request_without_a_method_is_a_get():
    assert RequestMessage({}).method == "GET"
    assert RequestMessage({"REQUEST_METHOD": "PATCH"}).method == "PATCH"
