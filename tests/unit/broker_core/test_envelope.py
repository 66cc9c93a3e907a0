from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.envelope import OVERHEAD, Keyring, context
from broker_core.errors import EnvelopeError

NAMES = st.lists(st.text(max_size=8), min_size=1, max_size=3)
SECRETS = st.text(min_size=1, max_size=20) | st.binary(min_size=1, max_size=20)
HERE = context("request", "id", "bulk")


@given(st.binary(max_size=200), SECRETS, NAMES)
def test_a_sealed_message_is_opened(plaintext, secret, names):
    keyring = Keyring([secret])
    sealed = keyring.seal(plaintext, context(*names))
    assert keyring.open(sealed, context(*names)) == plaintext
    assert len(sealed) == len(plaintext) + OVERHEAD


@given(st.binary(max_size=40), st.data())
def test_an_envelope_with_any_bit_flipped_is_refused(plaintext, data):
    keyring = Keyring(["key"])
    sealed = bytearray(keyring.seal(plaintext, HERE))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EnvelopeError):
        keyring.open(bytes(sealed), HERE)


@given(st.data())
def test_an_envelope_of_another_length_is_refused(data):
    keyring = Keyring(["key"])
    sealed = keyring.seal(b"pay 5", HERE)
    other = data.draw(st.sampled_from([sealed[:end] for end in range(len(sealed))] + [sealed + b"\0", sealed * 2]))
    with pytest.raises(EnvelopeError):
        keyring.open(other, HERE)


@given(st.binary(max_size=100))
def test_bytes_that_were_not_sealed_are_refused(data):
    with pytest.raises(EnvelopeError):
        Keyring(["key"]).open(data, HERE)


@given(NAMES, NAMES)
def test_an_envelope_is_opened_for_its_own_purpose_only(sealed_for, opened_for):
    keyring = Keyring(["key"])
    sealed = keyring.seal(b"pay 5", context(*sealed_for))
    if sealed_for == opened_for:
        assert keyring.open(sealed, context(*opened_for)) == b"pay 5"
    else:
        with pytest.raises(EnvelopeError):
            keyring.open(sealed, context(*opened_for))


@pytest.mark.parametrize("other", [("reques", "tid", "bulk"), ("request", "idbulk"), ("request", "id", "bulk", "")])
def test_names_do_not_run_into_each_other(other):
    assert context(*other) != HERE


@given(SECRETS, SECRETS)
def test_another_key_opens_nothing(secret, other):
    sealed = Keyring([secret]).seal(b"pay 5", HERE)
    as_bytes = [key if isinstance(key, bytes) else key.encode() for key in (secret, other)]
    if as_bytes[0] != as_bytes[1]:
        with pytest.raises(EnvelopeError, match="unknown key"):
            Keyring([other]).open(sealed, HERE)


@given(st.lists(SECRETS, min_size=1, max_size=4), st.binary(max_size=20))
def test_a_rotated_key_still_opens_what_it_sealed(older, plaintext):
    sealed = [Keyring([secret]).seal(plaintext, HERE) for secret in older]
    rotated = Keyring(["new", *older])
    assert [rotated.open(envelope, HERE) for envelope in sealed] == [plaintext] * len(older)


def test_the_first_key_seals():
    sealed = Keyring(["new", "old"]).seal(b"", HERE)
    assert Keyring(["new"]).open(sealed, HERE) == b""
    with pytest.raises(EnvelopeError):
        Keyring(["old"]).open(sealed, HERE)


def test_no_two_envelopes_are_alike():
    keyring = Keyring(["key"])
    assert len({keyring.seal(b"pay 5", HERE) for _ in range(50)}) == 50


@pytest.mark.parametrize("secrets", [[], [""], ["key", ""], [b""]])
def test_a_keyring_without_a_key_is_refused(secrets):
    with pytest.raises(EnvelopeError):
        Keyring(secrets)


def test_ids_distinguish_keys_and_name_the_one_that_seals() -> None:
    old, new = Keyring(["old"]), Keyring(["new", "old"])
    assert new.key_ids[1:] == old.key_ids
    assert len(set(new.key_ids)) == 2
    assert bytes.fromhex(new.key_ids[0]) == new.seal(b"", b"")[1:5]
