"""What has to be true for a condition to be true, as far as plain comparisons can tell.

Most conditions begin with a path or a method. Where one of the operands of a conjunction is false the conjunction is
false in CEL, whatever its other operands are, so that a cheap comparison spares the evaluation.
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
    """`name` begins with `text`, or is equal to it."""

    name: str
    text: str
    prefix: bool


def ruled_out(guards: tuple[Guard, ...], values: Mapping[str, str]) -> bool:
    """Whether a condition with these guards is false, whatever else it says. Every rule asks at every request."""
    for name, text, prefix in guards:  # noqa: SIM110 - a generator would double the cost
        if not values[name].startswith(text) if prefix else values[name] != text:
            return True
    return False


class Sieve:
    """Tells at once that none of many conditions is true, where each of them has a guard: a few look-ups for all."""

    def __init__(self, conditions: Iterable[tuple[Guard, ...]]) -> None:
        self._groups: list[tuple[str, tuple[str, ...], frozenset[str]]] | None = None
        chosen = [max(guards, key=_telling, default=None) for guards in conditions]
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

    def holds_back(self, values: Mapping[str, str]) -> bool:
        """Whether all of the conditions are false."""
        if self._groups is None:
            return False
        for name, prefixes, texts in self._groups:
            value = values[name]
            if value in texts or value.startswith(prefixes):
                return False
        return True


def _telling(guard: Guard) -> tuple[bool, int]:
    """The guard that rules out most: a path rather than a method, and a long one."""
    return guard.name != "request.method", len(guard.text)


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
