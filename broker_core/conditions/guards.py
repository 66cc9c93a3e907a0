"""Guards: plain comparisons that must be true for a condition to be true.

Most conditions begin with a path or a method. In CEL, a conjunction is false if one of its operands is false. So a
cheap comparison saves most evaluations.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_LITERAL = r'"([^"\\\n]*)"'
_PREFIX = re.compile(rf"(request\.(?:path|full_path))\.startsWith\(\s*{_LITERAL}\s*\)")
_EQUAL = re.compile(rf"(request\.(?:path|full_path|method|scheme|host|content_type))\s*==\s*{_LITERAL}")


class Guard(NamedTuple):
    """`name` starts with `text` (prefix), or is equal to it."""

    name: str
    text: str
    prefix: bool


def ruled_out(guards: tuple[Guard, ...], values: Mapping[str, str]) -> bool:
    """Whether a condition with these guards is false, whatever else it contains.

    Called for each rule of each request.
    """
    for name, text, prefix in guards:  # noqa: SIM110 - a generator would double the cost
        if not values[name].startswith(text) if prefix else values[name] != text:
            return True
    return False


class GuardIndex:
    """Rules out many conditions at once with a few look-ups, if each of them has a guard."""

    def __init__(self, conditions: Iterable[tuple[Guard, ...]]) -> None:
        self._groups: list[tuple[str, tuple[str, ...], frozenset[str]]] | None = None
        chosen = [max(guards, key=_selectivity, default=None) for guards in conditions]
        if chosen and None not in chosen:
            kept = [guard for guard in chosen if guard]
            self._groups = [
                (
                    name,
                    tuple(guard.text for guard in kept if guard.name == name and guard.prefix),
                    frozenset(guard.text for guard in kept if guard.name == name and not guard.prefix),
                )
                for name in dict.fromkeys(guard.name for guard in kept)
            ]

    def excludes(self, values: Mapping[str, str]) -> bool:
        """Whether all of the conditions are false."""
        if self._groups is None:
            return False
        for name, prefixes, texts in self._groups:
            value = values[name]
            if value in texts or value.startswith(prefixes):
                return False
        return True


def _selectivity(guard: Guard) -> tuple[bool, int]:
    """Sorts guards by how much they rule out: paths before methods, long texts before short ones."""
    return guard.name != "request.method", len(guard.text)


def guards_of(text: str, bare: str) -> tuple[Guard, ...]:
    """Returns the guards of a condition. `bare` is its text with string literals and comments blanked."""
    return tuple(guard for start, end in _conjuncts(bare) if (guard := _guard(text[start:end].strip())))


def _guard(conjunct: str) -> Guard | None:
    match = _PREFIX.fullmatch(conjunct)
    if match:
        return Guard(match[1], match[2], prefix=True)
    match = _EQUAL.fullmatch(conjunct)
    return Guard(match[1], match[2], prefix=False) if match else None


def _conjuncts(bare: str) -> Iterator[tuple[int, int]]:
    """Yields the start and end of each operand of a conjunction; nothing if the outermost operator is not `&&`."""
    outer = _outermost(bare)
    if "||" in outer or "?" in outer or "//" in outer:
        return
    start = 0
    for match in re.finditer("&&", outer):
        yield start, match.start()
        start = match.end()
    yield start, len(outer)


def _outermost(bare: str) -> str:
    """Returns the text with everything in brackets blanked."""
    depth, kept = 0, []
    for character in bare:
        depth -= character in ")]}"
        kept.append(" " if depth else character)
        depth += character in "([{"
    return "".join(kept)
