from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from django.db import DataError, IntegrityError, OperationalError
from hypothesis import given
from hypothesis import strategies as st

from broker_core.errors import StorageError
from broker_core.redaction import LONGEST, redacted

ROW = 'duplicate key value violates unique constraint "key"\nDETAIL:  Key (path)=(/reset/s3cret/) already exists.'


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OperationalError("no such table: x"), "OperationalError: no such table: x"),
        (TimeoutError(), "TimeoutError"),
        (StorageError("the storage does not answer"), "the storage does not answer"),
        (IntegrityError(ROW), 'IntegrityError: duplicate key value violates unique constraint "key"'),
        (DataError('invalid input syntax for type uuid: "s3cret"'), "DataError"),
        (KeyError("s3cret"), "KeyError"),
        (OSError("redis://user:s3cret@host:1/0 is away"), "OSError: redis://**@host:1/0 is away"),
        (OSError("redis://:s3c/ret@ho@host:1/0"), "OSError: redis://**@host:1/0"),
        (OSError("host=h password=s3cret user=u"), "OSError: host=h password=** user=u"),
    ],
)
def test_an_error_is_logged_redacted(error, text):
    assert redacted(error) == text


def test_a_part_of_a_password_that_urllib_repeats_is_not_logged():
    url = urlsplit("redis://:s3cret/more@host:1/0")
    with pytest.raises(ValueError, match="s3cret") as caught:
        int(url.port or 0)
    assert redacted(caught.value) == "ValueError"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("\x1b]0;pwned\x07 is away"), "OSError: �]0;pwned� is away"),
        (OSError("\x9b2Jaway"), "OSError: �2Jaway"),
        (OSError("a\u202eb"), "OSError: a�b"),
        (StorageError("the file \x1b[2J"), "the file �[2J"),
        (StorageError("the file\nERROR all is lost"), "the file�ERROR all is lost"),
        (OSError("redis://u\x1b:s3cret@host:1"), "OSError: redis://**@host:1"),
        (type("Odd\x1b[2J", (Exception,), {})(), "Odd�[2J"),
    ],
)
def test_logged_text_cannot_control_a_terminal(error, text):
    assert redacted(error) == text


@given(st.text())
def test_all_that_is_logged_can_be_printed(text):
    for error in (OSError(text), StorageError(text)):
        assert redacted(error).isprintable()


@given(st.text())
def test_a_logged_error_is_one_short_line(text):
    assert len(redacted(OSError(text)).splitlines()) == 1
    assert len(redacted(OSError(text))) <= LONGEST
