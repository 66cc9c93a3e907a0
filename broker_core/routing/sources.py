"""The paths that routers apply to (exact paths, patterns with converters, prefixes), and an index of them.

A look-up takes a few steps per segment of the path, however many sources there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from broker_core.errors import ConfigurationError
from broker_core.texts import Text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

T = TypeVar("T")

Captures = dict[str, str]
"""The parts of a path that a source captured, by name."""

MAX_LENGTH = 255

MAX_PARAMETERS = 2

MAX_MATCHED = 1_000
"""The longest text that is matched with a regular expression: the part of a path that a pattern's parameters cover."""

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
"""The name of the part of the path after a prefix."""

_PARAMETER = re.compile(r"<(?:(?P<converter>[^>:]+):)?(?P<name>[^>]*)>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Kind(StrEnum):
    """The kinds of sources. Among routers of the same rank, the more specific kind comes first."""

    EXACT = "exact"
    PATTERN = "pattern"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class Source:
    """The paths that a router applies to: `/orders/`, `/orders/<int:pk>/` as in Django's `path`, or `/orders/*`.

    It is compared with the decoded path, including the leading slash. `parse` raises ConfigurationError.
    """

    text: str
    kind: Kind
    names: tuple[str, ...] = ()
    """The names that it captures, in order."""
    _segments: tuple[str | _Template, ...] = field(default=(), repr=False)
    """The segments of a pattern or prefix; those without parameters as text."""
    _tail: _Template | None = field(default=None, repr=False)
    """The rest of a pattern, from the first segment that may match a slash."""

    @classmethod
    def parse(cls, text: str, converters: Mapping[str, str] = CONVERTERS) -> Source:
        if not text.startswith("/"):
            raise ConfigurationError(Text("a source must begin with a slash"))
        if len(text) > MAX_LENGTH:
            raise ConfigurationError(
                Text("a source has at most {most} characters, this one has {length}", most=MAX_LENGTH, length=len(text))
            )
        if _CONTROL.search(text):
            raise ConfigurationError(Text("a source may not contain control characters"))
        if text.endswith("/*"):
            if "<" in text:
                raise ConfigurationError(
                    Text("a prefix may not have parameters: use <path:name> at the end of a pattern")
                )
            return cls(text, Kind.PREFIX, (REST,), tuple(text[1:-1].split("/")[:-1]))
        if "<" in text or ">" in text:
            return cls._pattern(text, converters)
        return cls(text, Kind.EXACT)

    @classmethod
    def _pattern(cls, text: str, converters: Mapping[str, str]) -> Source:
        names: list[str] = []
        segments: list[str | _Template] = []
        pieces = text[1:].split("/")
        for number, piece in enumerate(pieces):
            template = _Template.parse(piece, converters)
            if template.spans:
                rest = _Template.parse("/".join(pieces[number:]), converters)
                return cls(text, Kind.PATTERN, _distinct([*names, *rest.names]), tuple(segments), rest)
            names += template.names
            segments.append(template if template.names else piece)
        return cls(text, Kind.PATTERN, _distinct(names), tuple(segments))


def _distinct(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(Text("the parameter {name!r} is used twice", name=name))
    return tuple(names)


@dataclass(frozen=True, slots=True)
class _Template:
    """A part of a pattern: its regular expression, the names it captures, and the literal text at its ends.

    spans: whether it may match a slash.
    """

    expression: str
    names: tuple[str, ...] = ()
    ends: tuple[str, str] = ("", "")
    spans: bool = False

    @classmethod
    def parse(cls, text: str, converters: Mapping[str, str]) -> _Template:
        expression, names, spans, literals, end = "", list[str](), False, list[str](), 0
        for match in _PARAMETER.finditer(text):
            literals.append(text[end : match.start()])
            converter, name = match["converter"] or "str", match["name"]
            if not name.isidentifier():
                raise ConfigurationError(Text("{name!r} is not a valid name for a parameter", name=name))
            if converter not in converters:
                raise ConfigurationError(
                    Text(
                        "there is no path converter {name!r}; there are {known}",
                        name=converter,
                        known=", ".join(converters),
                    )
                )
            expression += f"{_literal(literals[-1])}(?P<{name}>{converters[converter]})"
            names.append(name)
            spans = spans or converter not in WITHIN_A_SEGMENT
            end = match.end()
        if len(names) > MAX_PARAMETERS:  # the time to match grows with a power of their number
            raise ConfigurationError(
                Text(
                    "at most {most} parameters are allowed between two slashes, or from a path parameter on",
                    most=MAX_PARAMETERS,
                )
            )
        literals.append(text[end:])
        return cls(expression + _literal(literals[-1]), tuple(names), (literals[0], literals[-1]), spans)


def _literal(text: str) -> str:
    if "<" in text or ">" in text:
        raise ConfigurationError(Text("a parameter must be written <converter:name> or <name>"))
    return re.escape(text)


class _Templates(Generic[T]):
    """Values by template. A look-up skips templates whose literal ends do not fit the text."""

    def __init__(self) -> None:
        self.by_ends: dict[tuple[str, str], dict[str, tuple[re.Pattern[str], T]]] = {}
        self._lengths: list[tuple[int, int]] = []
        self._without_ends: dict[str, tuple[re.Pattern[str], T]] | None = None
        """All expressions, if no template has literal text at an end."""

    def setdefault(self, template: _Template, value: T) -> T:
        """Returns the value of the template, after setting it to `value` if it has none."""
        found = self.by_ends.setdefault(template.ends, {})
        lengths = len(template.ends[0]), len(template.ends[1])
        if lengths not in self._lengths:
            self._lengths.append(lengths)
            self._without_ends = found if self._lengths == [(0, 0)] else None
        compiled = re.compile(template.expression, re.DOTALL)
        return found.setdefault(template.expression, (compiled, value))[1]

    def fitting(self, text: str) -> Collection[tuple[re.Pattern[str], T]]:
        """Returns the expressions that may match this text, with their values."""
        size = len(text)
        if size > MAX_MATCHED:
            return ()
        if self._without_ends is not None:
            return self._without_ends.values()
        found: list[tuple[re.Pattern[str], T]] = []
        for begin, end in self._lengths:
            if begin + end <= size:
                alike = self.by_ends.get((text[:begin], text[size - end :]))
                if alike:
                    found += alike.values()
        return found


@dataclass(slots=True)
class _Node(Generic[T]):
    """A node of the tree of segments."""

    literals: dict[str, _Node[T]] = field(default_factory=dict)
    dynamic: _Templates[_Node[T]] = field(default_factory=_Templates)
    tails: _Templates[list[T]] = field(default_factory=_Templates)
    rest: list[T] = field(default_factory=list)
    """The values of prefixes that end here."""
    here: list[T] = field(default_factory=list)


class SourceIndex(Generic[T]):
    """Values by source. Add all sources before the first look-up."""

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
        for segment in source._segments:
            if isinstance(segment, str):
                node = node.literals.setdefault(segment, _Node())
            else:
                node = node.dynamic.setdefault(segment, _Node())
        if source.kind is Kind.PREFIX:
            return node.rest
        return node.here if source._tail is None else node.tails.setdefault(source._tail, [])

    def find(self, path: str) -> list[tuple[T, Captures]]:
        """Returns each value whose source matches the path, with the captured parts."""
        exact = self._exact.get(path)
        found: list[tuple[T, Captures]] = [(value, {}) for value in exact] if exact else []
        if path.startswith("/"):
            _walk(self._root, path.split("/"), 1, {}, found)
        return found


def _walk(node: _Node[T], segments: list[str], at: int, captured: Captures, found: list[tuple[T, Captures]]) -> None:
    """Adds what matches the segments from this one on."""
    last = len(segments)
    while at < last:
        if node.rest:
            below = "/".join(segments[at:])
            found += [(value, {**captured, REST: below}) for value in node.rest]
        if node.tails.by_ends:
            _add_tails(node, "/".join(segments[at:]), captured, found)
        if node.dynamic.by_ends:
            _walk_dynamic(node, segments, at, captured, found)
        following = node.literals.get(segments[at])
        if following is None:
            return
        node, at = following, at + 1
    found += [(value, captured) for value in node.here]


def _add_tails(node: _Node[T], text: str, captured: Captures, found: list[tuple[T, Captures]]) -> None:
    for expression, values in node.tails.fitting(text):
        match = expression.fullmatch(text)
        if match:
            found += [(value, {**captured, **match.groupdict()}) for value in values]


def _walk_dynamic(
    node: _Node[T], segments: list[str], at: int, captured: Captures, found: list[tuple[T, Captures]]
) -> None:
    following = segments[at + 1] if at + 1 < len(segments) else None
    for expression, below in node.dynamic.fitting(segments[at]):
        if following is None:
            goes_on: object = below.here
        else:
            goes_on = following in below.literals or below.dynamic.by_ends or below.tails.by_ends or below.rest
        if goes_on:  # otherwise the regular expression cannot lead to a match
            match = expression.fullmatch(segments[at])
            if match:
                _walk(below, segments, at + 1, {**captured, **match.groupdict()}, found)
