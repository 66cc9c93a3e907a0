"""Regular expressions in conditions. CEL compiles them each time it evaluates one, so that they have to be small."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import cel

from broker_core.errors import InvalidConditionError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARE = 20
"""So many times over, the patterns of one condition may not exceed the limit that the regex crate sets for one.

Together they then take up to about 500 kB and 3 ms: 10 of `\\w` or `\\pL`, 100 of `\\d`, or 7,000 of `[a-z]`.
"""
TOO_LARGE = "it is too large"

_CALL = re.compile(r"\bmatches\s*\(")
_REASON = re.compile(r"regex parse error:.*\nerror: (.+?)\. Check function arguments", re.DOTALL)
_MATCHES = cel.compile("text.matches(pattern)")


def require_small_patterns(text: str, bare: str) -> None:
    """`bare` is the text with spaces for its strings and comments. Raises InvalidConditionError."""
    patterns = list(_patterns(text, bare))
    for pattern, column in patterns:
        if reason := _refusal(pattern):
            raise InvalidConditionError(f"the pattern of matches cannot be used: {reason}", column)
    if not patterns:
        return
    # What is behind a comment of a verbose pattern is read only in the next line.
    together = "".join(f"(?:{pattern}\n)" for pattern, _column in patterns)
    if reason := _refusal(f"(?:{together}){{{SHARE}}}"):
        if reason == TOO_LARGE:
            reason = r"use fewer, count less, or write [A-Za-z] and [0-9] for \w and \d"
        raise InvalidConditionError(f"the patterns of matches are too large: {reason}", patterns[-1][1])


def _patterns(text: str, bare: str) -> Iterator[tuple[str, int]]:
    """Each with its column."""
    for call in _CALL.finditer(bare):
        begin, end = call.end(), bare.find(")", call.end())
        pattern = None if bare[begin:end].strip() else _literal(text[begin:end])
        if pattern is None:
            raise InvalidConditionError("matches takes a pattern in quotes", begin + 1)
        yield pattern, begin + 1


def _literal(text: str) -> str | None:
    try:
        value = cel.compile(text).execute(cel.Context({}))
    except (ValueError, RuntimeError):
        return None
    return value if isinstance(value, str) else None


def _refusal(pattern: str) -> str:
    """Why it does not compile; empty if it does."""
    try:
        _MATCHES.execute(cel.Context({"text": "", "pattern": pattern}))
    except RuntimeError as error:
        match = _REASON.search(str(error))
        return match[1] if match else TOO_LARGE
    return ""
