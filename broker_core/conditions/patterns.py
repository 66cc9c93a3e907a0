"""Limits on regular expressions in conditions. CEL compiles them at each evaluation, so they have to be small."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from broker_core.conditions.expressions import cel
from broker_core.errors import InvalidConditionError
from broker_core.texts import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARE = 20
"""The regex crate limits the size of one pattern. The patterns of a condition, repeated so often, must stay within it.

Together they then take up to about 500 kB and 3 ms: 10 of `\\w` or `\\pL`, 100 of `\\d`, or 7,000 of `[a-z]`.
"""
TOO_LARGE = Text("it is too large")

_CALL = re.compile(r"\bmatches\s*\(")
_REASON = re.compile(r"regex parse error:.*\nerror: (.+?)\. Check function arguments", re.DOTALL)
_MATCHES = cel.compile("text.matches(pattern)")


def require_small_patterns(text: str, bare: str) -> None:
    """Raises InvalidConditionError if a pattern is too large. `bare` is the text with strings and comments blanked."""
    patterns = list(_patterns(text, bare))
    for pattern, column in patterns:
        if reason := _refusal(pattern):
            raise InvalidConditionError(Text("the pattern of matches is invalid: {reason}", reason=reason), column)
    if not patterns:
        return
    # A verbose pattern may end with a comment, which reaches to the end of its line.
    together = "".join(f"(?:{pattern}\n)" for pattern, _column in patterns)
    if reason := _refusal(f"(?:{together}){{{SHARE}}}"):
        if reason == TOO_LARGE:
            reason = Text(r"use fewer of them or smaller counts, or write [A-Za-z] and [0-9] for \w and \d")
        raise InvalidConditionError(
            Text("the patterns of matches are too large: {reason}", reason=reason), patterns[-1][1]
        )


def _patterns(text: str, bare: str) -> Iterator[tuple[str, int]]:
    """Yields each pattern with its column."""
    for call in _CALL.finditer(bare):
        begin, end = call.end(), bare.find(")", call.end())
        pattern = None if bare[begin:end].strip() else _literal(text[begin:end])
        if pattern is None:
            raise InvalidConditionError(Text("the argument of matches must be a string literal"), begin + 1)
        yield pattern, begin + 1


def _literal(text: str) -> str | None:
    try:
        value = cel.compile(text).execute(cel.Context({}))
    except (ValueError, RuntimeError):
        return None
    return value if isinstance(value, str) else None


def _refusal(pattern: str) -> str:
    """Returns why the pattern does not compile, or an empty text."""
    try:
        _MATCHES.execute(cel.Context({"text": "", "pattern": pattern}))
    except RuntimeError as error:
        match = _REASON.search(str(error))
        return match[1] if match else TOO_LARGE
    return ""
