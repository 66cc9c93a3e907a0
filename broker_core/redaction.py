"""What may be logged of an error that came from elsewhere."""

from __future__ import annotations

import re

from broker_core.errors import BrokerError

LONGEST = 300

_USER_INFO = re.compile(r"://\S*@")
_PASSWORD = re.compile(r"(?i)(passw(?:or)?d\s*[=:]\s*)\S+")


def redacted(error: BaseException) -> str:
    """The name of the error, and what it says as far as that tells no secret.

    Only the first line, for PostgreSQL shows the row in those that follow. Nothing of errors that repeat the value they
    stumbled over: for a password with a slash in it, urllib says "Port could not be cast to integer value as" and a
    part of the password.
    """
    if isinstance(error, BrokerError):
        return str(error)
    name = type(error).__name__
    lines = str(error).splitlines()
    if not lines or isinstance(error, ValueError | LookupError) or name == "DataError":
        return name
    said = _PASSWORD.sub(r"\1**", _USER_INFO.sub("://**@", lines[0]))
    return f"{name}: {said}"[:LONGEST]
