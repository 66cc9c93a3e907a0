from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.policies import QueuePolicy
from broker_core.retries import LONGEST, is_failure, parse_retry_after, pause

NOW = datetime(2030, 5, 17, 12, tzinfo=UTC)


def longest(_least: float, most: float) -> float:
    return most


@pytest.mark.parametrize(
    ("status", "failure"),
    [(200, False), (302, False), (400, False), (404, False), (429, True), (500, True), (503, True)],
)
def test_a_4xx_is_an_answer(status, failure):
    assert is_failure(status) is failure


def test_the_longest_pause_doubles_up_to_its_bound():
    policy = QueuePolicy(max_attempts=99, retry_backoff=2, retry_backoff_max=50)
    assert [pause(policy, attempt, None, longest) for attempt in range(1, 8)] == [2, 4, 8, 16, 32, 50, 50]


@given(st.integers(1, 500), st.floats(0, 1e6), st.floats(0, 1e9), st.none() | st.floats(0, LONGEST))
def test_a_pause_is_never_longer_than_its_bounds_nor_shorter_than_asked(attempt, backoff, most, asked):
    policy = QueuePolicy(max_attempts=501, retry_backoff=backoff, retry_backoff_max=most)
    seconds = pause(policy, attempt, asked)
    assert seconds is not None
    assert (asked or 0) <= seconds <= max(most, asked or 0)


def test_pauses_are_spread():
    policy = QueuePolicy(max_attempts=9, retry_backoff=100)
    seconds = [pause(policy, 1) for _ in range(200)]
    assert min(seconds) < 20 < 80 < max(seconds)


def test_no_retry_follows_the_last_attempt():
    assert pause(QueuePolicy(max_attempts=3), 3) is None
    assert pause(QueuePolicy(max_attempts=3, delivery="at_most_once"), 1) is None
    assert pause(QueuePolicy(max_attempts=3), 1, LONGEST + 1) is None


def test_retry_after_is_seconds_or_a_date():
    assert parse_retry_after(" 120 ", NOW) == 120
    assert parse_retry_after(format_datetime(NOW + timedelta(seconds=90), usegmt=True), NOW) == 90
    assert parse_retry_after(format_datetime(NOW - timedelta(days=1), usegmt=True), NOW) == 0


@pytest.mark.parametrize("field", ["", "soon", "-1", "1.5", "١٢", "Fri, 99 May 2030 12:00:00 GMT"])
def test_a_malformed_retry_after_is_ignored(field):
    assert parse_retry_after(field, NOW) is None


@given(st.text(max_size=60))
def test_any_field_is_read_without_an_error(field):
    seconds = parse_retry_after(field, NOW)
    assert seconds is None or seconds >= 0
