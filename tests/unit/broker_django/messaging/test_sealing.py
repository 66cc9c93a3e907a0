from __future__ import annotations

import contextlib
import uuid

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from broker_core.errors import EnvelopeError
from broker_core.message import VERSION, VERSIONS, RequestMessage, ResponseMessage
from broker_django.messaging.sealing import (
    can_open,
    from_text,
    open_request,
    open_response,
    seal_request,
    seal_response,
    sealed_with,
    to_text,
)

REQUEST = RequestMessage({"REQUEST_METHOD": "POST"}, b"card=4111")
RESPONSE = ResponseMessage(201, body=b"paid")


@given(st.binary(max_size=100))
def test_sealed_bytes_travel_as_text(sealed):
    text = to_text(sealed)
    assert text.isascii()
    assert from_text(text) == sealed


@given(st.text() | st.none() | st.integers() | st.lists(st.text()))
def test_anything_else_is_refused_or_bytes(value):
    with contextlib.suppress(EnvelopeError):
        assert isinstance(from_text(value), bytes)


def test_a_request_is_opened_for_its_id_and_queue_only():
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    sealed = seal_request(REQUEST, one, "bulk")
    assert b"4111" not in sealed
    assert RequestMessage.decode(open_request(sealed, one, "bulk")) == REQUEST
    for dispatch_id, queue in ((other, "bulk"), (one, "payment")):
        with pytest.raises(EnvelopeError):
            open_request(sealed, dispatch_id, queue)


def test_a_response_is_opened_for_its_attempt_only_and_is_no_request():
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    sealed = seal_response(RESPONSE, one, 1)
    assert ResponseMessage.decode(open_response(sealed, one, 1)) == RESPONSE
    with pytest.raises(EnvelopeError):
        open_response(sealed, other, 1)
    with pytest.raises(EnvelopeError):
        open_response(sealed, one, 2)
    with pytest.raises(EnvelopeError):
        open_request(from_text(sealed), one, "bulk")


def test_another_site_opens_nothing():
    sealed = seal_response(RESPONSE, "1", 1)
    with override_settings(SECRET_KEY="another"), pytest.raises(EnvelopeError):
        open_response(sealed, "1", 1)


def test_a_request_sealed_in_any_supported_version_can_be_opened():
    seal = sealed_with(seal_request(REQUEST, str(uuid.uuid4()), "bulk"))
    version, _, key = seal.partition(".")
    assert version == str(VERSION)
    assert all(can_open(f"{each}.{key}") for each in VERSIONS)
    assert not can_open(f"{VERSION + 1}.{key}")
    assert not can_open(f"{VERSION}.0000")
