"""Removes secrets from error messages before they are logged."""

from __future__ import annotations

import re

from broker_core.errors import BrokerError

LONGEST = 300

_WORD = re.compile(r"\S+")
_PASSWORD = re.compile(r"(?i)(passw(?:or)?d\s*[=:]\s*)\S+")


def redacted(error: BaseException) -> str:
    """Returns the name of the error, and its message if that reveals no secret.

    Only the first line is used: PostgreSQL shows the row in the next ones. Errors that repeat an invalid value lose
    their message: for a password with a slash, urllib says "Port could not be cast to integer value as" and a part of
    the password. The text may come from elsewhere, and logs are read in terminals.
    """
    return printable(_redacted(error))


def _redacted(error: BaseException) -> str:
    if isinstance(error, BrokerError):
        return str(error)
    name = type(error).__name__
    lines = str(error).splitlines()
    if not lines or isinstance(error, ValueError | LookupError) or name == "DataError":
        return name
    text = _PASSWORD.sub(r"\1**", _WORD.sub(_without_user_info, lines[0]))
    return f"{name}: {text}"[:LONGEST]


def _without_user_info(word: re.Match[str]) -> str:
    head, _, rest = word[0].partition("://")
    _secret, at, after = rest.rpartition("@")
    return f"{head}://**@{after}" if at else word[0]


def printable(text: object) -> str:
    """Returns the text on one line, safe for a terminal or a log: its author cannot move the cursor or forge a line."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))
