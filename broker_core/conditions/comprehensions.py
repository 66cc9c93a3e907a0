"""Comprehensions: `all`, `exists`, `exists_one`, `map` and `filter`, whose steps must stay small."""

from __future__ import annotations

import re

from broker_core.errors import InvalidConditionError
from broker_core.texts import Text

_MACRO = re.compile(r"\.\s*(all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_WHOLE = re.compile(r"(\bin\s+)?\b((?:request\s*\.\s*(?:query|headers|cookies)|user\s*\.\s*groups)\b)(?!\s*[.\[])")
"""A collection that is not indexed. The first group matches if the condition only tests membership (`in`)."""
_GROWING = re.compile(r"\{|[^\w)\]\s]\s*\[")
"""A map or list literal, which would make the elements of a `map` larger."""
_LITERAL = re.compile(r"\{|(?:[^\w)\]\s]|\bin)\s*\[")
"""The start of a map or list literal."""
_SUMS = re.compile(r"\+[^+]*\+")
_READ = re.compile(r"(\bin\s+)?\b((?:request|user|now)\b(?:\s*\.\s*\w+)*)(?:\s*\[\s*([A-Za-z_]\w*)\s*\])?")
"""A value of the request. The first group matches a membership test, the third is the index."""
_COSTLY = re.compile(r"\b(matches|bytes)\s*\(")


def comprehension_variables(bare: str) -> set[str]:
    """Returns the names that comprehensions bind. Raises InvalidConditionError if one could run long.

    Each step of `map` and `filter` copies the list built so far.
    """
    bound: set[str] = set()
    ends: list[int] = []
    macros = list(_MACRO.finditer(bare))
    for name in ("map", "filter"):
        again = [match.start() + 1 for match in macros if match[1] == name][1:]
        if again:
            raise InvalidConditionError(Text("only one {name} is allowed: each builds a list", name=name), again[0])
    for match in macros:
        if any(match.start() < end for end in ends):
            raise InvalidConditionError(Text("a comprehension may not contain another"), match.start() + 1)
        begin = bare.index("(", match.start())
        ends.append(_closing(bare, begin))
        _require_small_steps(bare, match, begin + 1, ends[-1])
        bound.add(match[2])
    return bound


def _require_small_steps(bare: str, macro: re.Match[str], begin: int, end: int) -> None:
    for whole in _WHOLE.finditer(bare, begin, end):
        if not whole[1]:
            reason = Text("a comprehension may test what is in {name}, but not use all of it", name=whole[2])
            raise InvalidConditionError(reason, whole.start(2) + 1)
    if costly := _COSTLY.search(bare, begin, end):
        if costly[1] == "matches":
            reason = Text("a comprehension may not call matches, which compiles its pattern")
        else:
            reason = Text("a comprehension may not call bytes, which copies a text")
        raise InvalidConditionError(reason, costly.start() + 1)
    if sums := _SUMS.search(bare, begin, end):
        raise InvalidConditionError(Text("a comprehension may contain one sum: each copies its operands"), sums.end())
    for literal in _LITERAL.finditer(bare, begin, end):
        if read := _READ.search(bare, literal.end(), _closing(bare, literal.end() - 1)):
            reason = Text("a comprehension may not put {name} into a list or a map, which copies it", name=read[2])
            raise InvalidConditionError(reason, read.start(2) + 1)
    if macro[1] == "map":
        _require_small_elements(bare, macro[2], begin, end)


def _require_small_elements(bare: str, name: str, begin: int, end: int) -> None:
    if growing := _GROWING.search(bare, begin, end):
        raise InvalidConditionError(Text("a map may not make its elements larger"), growing.end())
    for read in _READ.finditer(bare, begin, end):
        if not read[1] and read[3] != name:
            reason = Text("a map may read the request by its element only, as request.query[{name}]", name=name)
            raise InvalidConditionError(reason, read.start(2) + 1)


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if not depth:
            return index
    return len(text)
