from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.http.preferences import MAX_LENGTH, NO_PREFERENCES, Preferences, parse_preferences

PIECES = st.sampled_from(["respond-async", "wait", "=", ",", ";", '"', "\\", "10", " ", "\t", "foo", "é", "\n"])


@given(st.text() | st.lists(PIECES, max_size=30).map("".join))
def test_any_text_has_preferences_or_none(text):
    found = parse_preferences(text)
    assert isinstance(found.respond_async, bool)
    assert found.wait is None or found.wait >= 0
    assert parse_preferences(found.applied(found.wait or 0)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("respond-async, wait=10", Preferences(True, 10)),
        ("respond-async,wait=100,handling=lenient", Preferences(True, 100)),
        ('foo; bar=""', NO_PREFERENCES),
        ('foo=""; bar', NO_PREFERENCES),
        ("Lenient", NO_PREFERENCES),
        ("handling=strict, return=minimal, wait=5", Preferences(False, 5)),
    ],
)
def test_the_examples_of_rfc_7240(text, found):
    assert parse_preferences(text) == found


@pytest.mark.parametrize("text", ['RESPOND-async; x="a"', 'respond-async=""', " respond-async ", "a, , respond-async,"])
def test_an_asynchronous_answer_is_preferred(text):
    assert parse_preferences(text) == Preferences(True)


@pytest.mark.parametrize(
    "text", ["respond-async=no", "respond-asynchronously", "(respond-async)", "respond async", "="]
)
def test_an_asynchronous_answer_is_not_preferred(text):
    assert parse_preferences(text) == NO_PREFERENCES


@pytest.mark.parametrize("text", ['foo="a, respond-async, b"', 'foo; bar="a, wait=3, b"', r'foo="\", wait=3, \""'])
def test_a_quoted_comma_separates_nothing(text):
    assert parse_preferences(text) == NO_PREFERENCES


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("wait=10, wait=20", 10),
        ('WAIT="7"', 7),
        ("wait=0", 0),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=٣", None),
        ("wait", None),
        ("wait=" + "9" * 500, None),
    ],
)
def test_the_seconds_that_the_client_waits(text, wait):
    assert parse_preferences(text).wait == wait


def test_a_field_is_parsed_up_to_a_limit():
    assert parse_preferences("respond-async" + " " * MAX_LENGTH) == NO_PREFERENCES
    assert parse_preferences('"' * MAX_LENGTH) == NO_PREFERENCES


@pytest.mark.parametrize(
    ("preferences", "held", "applied"),
    [
        (NO_PREFERENCES, 5, ""),
        (Preferences(True), 0, "respond-async"),
        (Preferences(False, 0), 0, "wait=0"),
        (Preferences(True, 5), 5, "respond-async, wait=5"),
        (Preferences(True, 5), 0, "respond-async"),
        (Preferences(False, 5), 0.2, ""),
        (Preferences(False, 100), 30.0, "wait=30"),
    ],
)
def test_applied_preferences_are_reported(preferences, held, applied):
    assert preferences.applied(held) == applied
