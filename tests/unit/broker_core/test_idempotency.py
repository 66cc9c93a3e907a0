from __future__ import annotations

import string
from typing import Any

import http_sf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker_core.dispatches import State
from broker_core.errors import IdempotencyKeyError, IdempotencyKeyInFlightError, IdempotencyKeyReusedError
from broker_core.idempotency import MAX_LENGTH, fingerprint, parse_key, scope, verdict

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
BARE = PRINTABLE.translate(str.maketrans("", "", ' ",'))

keys = st.text(PRINTABLE, min_size=1, max_size=MAX_LENGTH)
texts = st.text(max_size=20)


@given(keys)
def test_a_quoted_key_is_read_as_it_was_written(key: str) -> None:
    assert parse_key(http_sf.ser(key)) == key


@given(st.text(BARE, min_size=1, max_size=MAX_LENGTH))
def test_a_key_without_quotes_is_the_same_key(key: str) -> None:
    assert parse_key(key) == parse_key(f" {key}\t") == parse_key(http_sf.ser(key)) == key


@given(st.text())
@example('"')
@example('"\\')
def test_any_other_text_is_refused_and_nothing_else_is_raised(field: str) -> None:
    try:
        key = parse_key(field)
    except IdempotencyKeyError:
        return
    assert 0 < len(key) <= MAX_LENGTH
    assert key.isascii() and key.isprintable()


@pytest.mark.parametrize(
    "field",
    ["", " ", '""', '"a', 'a"', '"a" "b"', '"a","b"', "a,b", "a b", '"a\tb"', '"\\a"', "é", '"é"', '%"a"', "a\x00"],
)
def test_malformed_fields(field: str) -> None:
    with pytest.raises(IdempotencyKeyError):
        parse_key(field)


def test_parameters_are_ignored() -> None:
    assert parse_key('"a"; v=1;x') == "a"


@pytest.mark.parametrize("field", ["k" * 256, f'"{"k" * 256}"', '"a"' + ";a=1" * 400])
def test_a_long_field_is_refused(field: str) -> None:
    with pytest.raises(IdempotencyKeyError):
        parse_key(field)


sites = st.tuples(texts, texts)
scopes = st.tuples(sites, texts, texts, texts, keys)


@given(scopes, scopes)
@example((("", ""), "1", "", "/a/", "k"), (("", ""), "", "1", "/a/", "k"))
@example((("", ""), "", "", "/a/", "bk"), (("", ""), "", "", "/a/b", "k"))
@example((("a", "b"), "1", "", "/a/", "k"), (("ab", ""), "1", "", "/a/", "k"))
def test_scopes_are_equal_only_if_their_parts_are(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    def counted(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """A user is the same user with any client."""
        site, user, client, route, key = parts
        return (site, "user", user, route, key) if user else (site, "client", client, route, key)

    assert (scope(*one) == scope(*other)) == (counted(one) == counted(other))
    assert len(scope(*one)) == 64


requests = st.tuples(
    keys, texts, texts, st.sampled_from(["", "text/plain", "multipart/mixed"]), st.just({}), st.binary(max_size=20)
)


@given(requests, requests)
@example(("k", "POST", "/a", "", {}, b"b"), ("k", "POST", "/", "", {}, b"ab"))
@example(("k", "POST", "/", "t/p", {"a": "1"}, b"a"), ("k", "POST", "/", "t/p", {"a": "2"}, b"a"))
@example(("k", "POST", "/", "text/plain", {}, b""), ("k", "POST", "/", "", {}, b""))
def test_fingerprints_are_equal_only_if_the_requests_are(one: tuple, other: tuple) -> None:
    def counted(request: tuple) -> tuple:
        """Nothing has no type."""
        return request if request[-1] else (*request[:3], b"")

    assert (fingerprint(*one) == fingerprint(*other)) == (counted(one) == counted(other))
    assert len(fingerprint(*one)) == 64


def form(boundary: str, parts: list[bytes], kind: str = "multipart/form-data") -> str:
    delimiter = b"--" + boundary.encode()
    body = b"".join(delimiter + b"\r\n\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"
    return fingerprint("k", "POST", "/", kind, {"boundary": boundary}, body)


parts = st.lists(st.binary(max_size=10) | st.sampled_from([b"--", b"\r\n--\r\n\r\n", b"\r\n----"]), max_size=4)


@given(parts, parts)
def test_forms_are_the_same_with_any_boundary(one: list[bytes], other: list[bytes]) -> None:
    assert (form("0a1b2c3d4e", one) == form("f5e6d7c8b9", other)) == (one == other)


def test_an_invalid_boundary_counts_like_any_parameter() -> None:
    def of(media_type: str, boundary: str) -> str:
        return fingerprint("k", "POST", "/", media_type, {"boundary": boundary}, b"body")

    assert of("text/plain", "a") != of("text/plain", "b")
    assert of("multipart/mixed", "ä") != of("multipart/mixed", "ö")


@pytest.mark.parametrize("state", list(State))
def test_another_request_is_refused_in_any_state(state: State) -> None:
    assert isinstance(verdict(state, same_request=False), IdempotencyKeyReusedError)


@pytest.mark.parametrize("state", list(State))
def test_the_same_request_is_refused_only_while_the_first_runs(state: State) -> None:
    error = verdict(state, same_request=True)
    assert isinstance(error, IdempotencyKeyInFlightError) if state is State.RUNNING else error is None
