from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime

import pytest
from django.core.signing import Signer
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from broker_core.errors import DispatchNotFoundError, TokenExpiredError
from broker_django.ledger import tokens
from broker_django.urls import TokenConverter

NOW = datetime(2030, 5, 17, 12, tzinfo=UTC)


@given(st.uuids())
def test_a_token_is_read_as_the_id_it_was_issued_for(dispatch_id):
    token = tokens.issue(dispatch_id, NOW)
    assert tokens.read(token, NOW.timestamp()) == dispatch_id
    assert re.fullmatch(TokenConverter.regex, token)
    assert len(token) <= tokens.MAX_LENGTH


@given(st.uuids(), st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_a_dispatch_has_one_token_until_it_expires(dispatch_id, accepted):
    with override_settings(REQUEST_BROKER={"TOKEN_MAX_AGE": 60}):
        token = tokens.issue(dispatch_id, accepted)
        assert token == tokens.issue(dispatch_id, accepted.replace(microsecond=0))
        issued = int(accepted.timestamp())
        assert tokens.read(token, issued + 60) == dispatch_id
        with pytest.raises(TokenExpiredError):
            tokens.read(token, issued + 60.5)


@given(
    st.text() | st.text(st.characters(), max_size=40) | st.uuids().map(str) | st.uuids().map(lambda other: other.hex)
)
def test_any_other_text_is_not_a_token(text):
    with pytest.raises(DispatchNotFoundError):
        tokens.read(text)


@given(st.uuids(), st.data())
def test_a_changed_token_is_invalid(dispatch_id, data):
    token = tokens.issue(dispatch_id, NOW)
    place = data.draw(st.integers(0, len(token) - 1))
    changed = token[:place] + data.draw(st.characters() | st.just("")) + token[place + 1 :]
    if changed != token:
        with pytest.raises(DispatchNotFoundError):
            tokens.read(changed)


@given(st.uuids(), st.uuids())
def test_the_signature_of_one_dispatch_is_invalid_for_another(one, other):
    if one != other:
        with pytest.raises(DispatchNotFoundError):
            tokens.read(tokens.issue(one, NOW).replace(one.hex, other.hex))


def test_a_signature_with_another_salt_is_invalid():
    with pytest.raises(DispatchNotFoundError):
        tokens.read(Signer(sep=".").sign(uuid.uuid4().hex))


@pytest.mark.parametrize("text", ["not an id", uuid.UUID(int=1).hex, f"{uuid.UUID(int=1).hex}-", "-1uvM2l", "x-1uvM2l"])
def test_another_signed_text_is_not_a_token(text):
    with pytest.raises(DispatchNotFoundError):
        tokens.read(Signer(sep=".", salt="request_broker.token").sign(text))


def test_tokens_survive_a_rotation_of_keys():
    dispatch_id = uuid.uuid4()
    with override_settings(SECRET_KEY="old"):
        token = tokens.issue(dispatch_id, NOW)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        assert tokens.read(token, NOW.timestamp()) == dispatch_id
    with override_settings(SECRET_KEY="new"), pytest.raises(DispatchNotFoundError):
        tokens.read(token)
