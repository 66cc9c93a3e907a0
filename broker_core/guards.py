"""What has to be true for a condition to be true, as far as plain comparisons can tell.

Most conditions begin with a path or a method. Where one of the operands of a conjunction is false the conjunction is
false in CEL, whatever its other operands are, so that a cheap comparison spares the evaluation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LITERAL = r'"([^"\\\n]*)"'
_PREFIX = re.compile(rf"(request\.(?:path|full_path))\.startsWith\(\s*{_LITERAL}\s*\)")
_EQUAL = re.compile(rf"(request\.(?:path|full_path|method|scheme|host|content_type))\s*==\s*{_LITERAL}")


@dataclass(frozen=True, slots=True)
class Guard:
    """`name` begins with `text`, or is equal to it."""

    name: str
    text: str
    prefix: bool

    def admits(self, values: Mapping[str, str]) -> bool:
        value = values[self.name]
        return value.startswith(self.text) if self.prefix else value == self.text


def ruled_out(guards: tuple[Guard, ...], values: Mapping[str, str]) -> bool:
    """Whether a condition with these guards is false, whatever else it says."""
    for guard in guards:  # noqa: SIM110 - every rule asks at every request, and a generator would double the cost
        if not guard.admits(values):
            return True
    return False


def guards_of(text: str, bare: str) -> tuple[Guard, ...]:
    """The guards of a condition. `bare` is its text with the contents of string literals blanked."""
    return tuple(guard for start, end in _conjuncts(bare) if (guard := _guard(text[start:end].strip())))


def _guard(conjunct: str) -> Guard | None:
    match = _PREFIX.fullmatch(conjunct)
    if match:
        return Guard(match[1], match[2], prefix=True)
    match = _EQUAL.fullmatch(conjunct)
    return Guard(match[1], match[2], prefix=False) if match else None


def _conjuncts(bare: str) -> Iterator[tuple[int, int]]:
    """Where the operands of a conjunction stand; nothing where the outermost operator is another."""
    outer = _outermost(bare)
    if "||" in outer or "?" in outer or "//" in outer:
        return
    start = 0
    for match in re.finditer("&&", outer):
        yield start, match.start()
        start = match.end()
    yield start, len(outer)


def _outermost(bare: str) -> str:
    """The text with everything in brackets blanked."""
    depth, kept = 0, []
    for character in bare:
        depth -= character in ")]}"
        kept.append(" " if depth else character)
        depth += character in "([{"
    return "".join(kept)
