"""What may be logged of an error that came from elsewhere."""

from __future__ import annotations

import re

from broker_core.errors import BrokerError

LONGEST = 300

_WORD = re.compile(r"\S+")
_PASSWORD = re.compile(r"(?i)(passw(?:or)?d\s*[=:]\s*)\S+")


def redacted(error: BaseException) -> str:
    """The name of the error, and what it says as far as that tells no secret.

    Only the first line, for PostgreSQL shows the row in those that follow. Nothing of errors that repeat the value they
    stumbled over: for a password with a slash in it, urllib says "Port could not be cast to integer value as" and a
    part of the password. What it says may come from elsewhere, and logs are read in terminals.
    """
    return printable(_redacted(error))


def _redacted(error: BaseException) -> str:
    if isinstance(error, BrokerError):
        return str(error)
    name = type(error).__name__
    lines = str(error).splitlines()
    if not lines or isinstance(error, ValueError | LookupError) or name == "DataError":
        return name
    said = _PASSWORD.sub(r"\1**", _WORD.sub(_without_user_info, lines[0]))
    return f"{name}: {said}"[:LONGEST]


def _without_user_info(word: re.Match[str]) -> str:
    head, _, rest = word[0].partition("://")
    _secret, at, after = rest.rpartition("@")
    return f"{head}://**@{after}" if at else word[0]


def printable(text: object) -> str:
    """On one line of a terminal or a log: whoever has written it cannot move the cursor, or begin another line."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))
