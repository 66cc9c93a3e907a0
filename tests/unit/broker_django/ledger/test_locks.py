from __future__ import annotations

import pytest
from django.db import DataError, OperationalError

from broker_django.ledger import ledger


class DriverError(Exception):
    """What a database driver raises, with the SQLSTATE of psycopg."""

    sqlstate: str | None = None


def failed(kind: type[Exception], *args: object, sqlstate: str | None = None) -> Exception:
    error, error.__cause__ = kind("a statement failed"), DriverError(*args)
    error.__cause__.sqlstate = sqlstate
    return error


@pytest.mark.parametrize(
    ("error", "locked_out"),
    [
        (failed(OperationalError, sqlstate="55P03"), True),
        (failed(OperationalError, 1205, "Lock wait timeout exceeded"), True),
        (failed(OperationalError, sqlstate="57P01"), False),
        (failed(OperationalError, 2006, "MySQL server has gone away"), False),
        (failed(OperationalError), False),
        (OperationalError("database is locked"), False),
        (failed(DataError, 1205), False),
        (OSError(1205), False),
    ],
)
def test_only_a_timeout_of_a_lock_means_that_another_session_has_the_row(error: Exception, locked_out: bool) -> None:
    assert ledger.is_locked_out(error) is locked_out
