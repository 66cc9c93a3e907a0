"""Where routers apply: exact paths, patterns with converters, prefixes; and finding those that match a path.

Finding costs a few look-ups by the segments of the path, however many sources there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from broker_core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

Captures = dict[str, str]
"""What a source captured of a path, by name."""

MAX_LENGTH = 255

CONVERTERS: Mapping[str, str] = {
    "int": "[0-9]+",
    "path": ".+",
    "slug": "[-a-zA-Z0-9_]+",
    "str": "[^/]+",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}
"""The regular expressions of Django's path converters."""

WITHIN_A_SEGMENT = frozenset({"int", "slug", "str", "uuid"})
"""The converters that never match a slash."""

REST = "rest"
"""What a prefix leaves of the path goes by this name."""

_PARAMETER = re.compile(r"<(?:(?P<converter>[^>:]+):)?(?P<name>[^>]*)>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Kind(StrEnum):
    """The more specific kind comes first among routers of the same rank."""

    EXACT = "exact"
    PATTERN = "pattern"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a router applies: `/orders/`, `/orders/<int:pk>/` as in Django's `path`, or `/orders/*`.

    The text is that of the decoded path, from the slash that begins it. Raises ConfigurationError.
    """

    text: str
    kind: Kind
    names: tuple[str, ...] = ()
    """The names of what it captures, in order."""
    _segments: tuple[tuple[str, bool], ...] = field(default=(), repr=False)
    """Of a pattern or prefix: literal text, or a regular expression (True)."""
    _tail: str | None = field(default=None, repr=False)
    """The regular expression of what follows the segments, from the first that may match a slash."""

    @classmethod
    def parse(cls, text: str, converters: Mapping[str, str] = CONVERTERS) -> Source:
        if not text.startswith("/"):
            raise ConfigurationError("a source begins with a slash")
        if len(text) > MAX_LENGTH:
            raise ConfigurationError(f"a source has at most {MAX_LENGTH} characters, this one has {len(text)}")
        if _CONTROL.search(text):
            raise ConfigurationError("a source has no control characters")
        if text.endswith("/*"):
            if "<" in text:
                raise ConfigurationError("a prefix has no parameters: use <path:name> at the end of a pattern")
            segments = tuple((segment, False) for segment in text[1:-1].split("/")[:-1])
            return cls(text, Kind.PREFIX, (REST,), segments)
        if "<" in text or ">" in text:
            return cls._pattern(text, converters)
        return cls(text, Kind.EXACT)

    @classmethod
    def _pattern(cls, text: str, converters: Mapping[str, str]) -> Source:
        names: list[str] = []
        segments: list[tuple[str, bool]] = []
        pieces = text[1:].split("/")
        for number, piece in enumerate(pieces):
            expression, found, spans = _expression(piece, converters)
            if spans:
                rest, others, _ = _expression("/".join(pieces[number:]), converters)
                return cls(text, Kind.PATTERN, _distinct([*names, *others]), tuple(segments), rest)
            names += found
            segments.append((expression, True) if found else (piece, False))
        return cls(text, Kind.PATTERN, _distinct(names), tuple(segments))


def _distinct(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"the parameter {name!r} is there twice")
    return tuple(names)


def _expression(text: str, converters: Mapping[str, str]) -> tuple[str, list[str], bool]:
    """The regular expression of a part of a pattern, the names it captures, and whether it may match a slash."""
    expression, names, spans, end = "", list[str](), False, 0
    for match in _PARAMETER.finditer(text):
        literal, converter, name = text[end : match.start()], match["converter"] or "str", match["name"]
        if not name.isidentifier():
            raise ConfigurationError(f"{name!r} is no name for a parameter")
        if converter not in converters:
            raise ConfigurationError(f"there is no path converter {converter!r}; there are {', '.join(converters)}")
        expression += f"{_literal(literal)}(?P<{name}>{converters[converter]})"
        names.append(name)
        spans = spans or converter not in WITHIN_A_SEGMENT
        end = match.end()
    return expression + _literal(text[end:]), names, spans


def _literal(text: str) -> str:
    if "<" in text or ">" in text:
        raise ConfigurationError("a parameter is written <converter:name> or <name>")
    return re.escape(text)


@dataclass(slots=True)
class _Node(Generic[T]):
    """One step of a path below another."""

    literals: dict[str, _Node[T]] = field(default_factory=dict)
    dynamic: dict[str, tuple[re.Pattern[str], _Node[T]]] = field(default_factory=dict)
    tails: dict[str, tuple[re.Pattern[str], list[T]]] = field(default_factory=dict)
    rest: list[T] = field(default_factory=list)
    """What takes all below."""
    here: list[T] = field(default_factory=list)


class SourceIndex(Generic[T]):
    """Values by source. Build it, then only ask."""

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = {}
        self._root: _Node[T] = _Node()

    def add(self, source: Source, value: T) -> None:
        if source.kind is Kind.EXACT:
            self._exact.setdefault(source.text, []).append(value)
        else:
            self._place(source).append(value)

    def _place(self, source: Source) -> list[T]:
        node = self._root
        for text, dynamic in source._segments:
            if dynamic:
                node = node.dynamic.setdefault(text, (re.compile(text), _Node()))[1]
            else:
                node = node.literals.setdefault(text, _Node())
        if source.kind is Kind.PREFIX:
            return node.rest
        if source._tail is None:
            return node.here
        return node.tails.setdefault(source._tail, (re.compile(source._tail, re.DOTALL), []))[1]

    def find(self, path: str) -> list[tuple[T, Captures]]:
        """Each value whose source matches the path, with what the source captured."""
        exact = self._exact.get(path)
        found: list[tuple[T, Captures]] = [(value, {}) for value in exact] if exact else []
        if path.startswith("/"):
            _walk(self._root, path.split("/"), 1, {}, found)
        return found


def _walk(node: _Node[T], segments: list[str], at: int, captured: Captures, found: list[tuple[T, Captures]]) -> None:
    """Add what matches the segments from this one on."""
    last = len(segments)
    while at < last:
        if node.rest:
            below = "/".join(segments[at:])
            found += [(value, {**captured, REST: below}) for value in node.rest]
        if node.tails:
            _add_tails(node, "/".join(segments[at:]), captured, found)
        if node.dynamic:
            _walk_dynamic(node, segments, at, captured, found)
        following = node.literals.get(segments[at])
        if following is None:
            return
        node, at = following, at + 1
    found += [(value, captured) for value in node.here]


def _add_tails(node: _Node[T], text: str, captured: Captures, found: list[tuple[T, Captures]]) -> None:
    for expression, values in node.tails.values():
        match = expression.fullmatch(text)
        if match:
            found += [(value, {**captured, **match.groupdict()}) for value in values]


def _walk_dynamic(
    node: _Node[T], segments: list[str], at: int, captured: Captures, found: list[tuple[T, Captures]]
) -> None:
    following = segments[at + 1] if at + 1 < len(segments) else None
    for expression, below in node.dynamic.values():
        goes_on = below.here if following is None else following in below.literals or below.dynamic or below.tails
        if goes_on:  # else the regular expression need not be asked
            match = expression.fullmatch(segments[at])
            if match:
                _walk(below, segments, at + 1, {**captured, **match.groupdict()}, found)
