"""Mutations of bytes and text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Items = list[int]
"""Bytes, or the code points of a text."""
Step = tuple[Callable[[Items, Items, int, int, Items], Items], int, int, Items]
"""A mutation, two places, and what it puts in."""


def flip(items: Items, _other: Items, place: int, bit: int, _new: Items) -> Items:
    place %= len(items)
    return [*items[:place], items[place] ^ 1 << bit % 7, *items[place + 1 :]]


def overwrite(items: Items, _other: Items, place: int, _end: int, new: Items) -> Items:
    place %= len(items)
    return [*items[:place], *new, *items[place + len(new) :]]


def insert(items: Items, _other: Items, place: int, _end: int, new: Items) -> Items:
    place %= len(items)
    return [*items[:place], *new, *items[place:]]


def cut(items: Items, _other: Items, place: int, end: int, _new: Items) -> Items:
    start, stop = sorted((place % len(items), end % (len(items) + 1)))
    return items[:start] + items[stop:]


def shorten(items: Items, _other: Items, place: int, _end: int, _new: Items) -> Items:
    return items[: place % len(items)]


def repeat(items: Items, _other: Items, place: int, end: int, _new: Items) -> Items:
    start, stop = sorted((place % len(items), end % (len(items) + 1)))
    return items[:stop] + items[start:]


def turn(items: Items, _other: Items, place: int, _end: int, _new: Items) -> Items:
    place %= len(items)
    return items[place:] + items[:place]


def swap_piece(items: Items, other: Items, place: int, end: int, _new: Items) -> Items:
    start, stop = sorted((place % len(items), end % (len(items) + 1)))
    return items[:start] + other[start:stop] + items[stop:]


def swap_tail(items: Items, other: Items, place: int, _end: int, _new: Items) -> Items:
    place %= len(items)
    return items[:place] + other[place:]


MUTATIONS = [flip, overwrite, insert, cut, shorten, repeat, turn, swap_piece, swap_tail]
PLACES = st.integers(0, 12) | st.integers(0, 1 << 12)


def steps(values: SearchStrategy[int]) -> SearchStrategy[list[Step]]:
    step = st.tuples(st.sampled_from(MUTATIONS), PLACES, PLACES, st.lists(values, min_size=1, max_size=8))
    return st.lists(step, min_size=1, max_size=3)


BYTES = steps(st.integers(0, 255))
"""Mutations of bytes, for `mutated`."""
TEXT = steps(st.integers(32, 126) | st.integers(0, 0x10FFFF))
"""Mutations of text, for `mutated_text`."""


def mutated(original: bytes, mutations: list[Step], other: bytes = b"") -> bytes:
    return bytes(_apply(list(original), mutations, list(other)))


def mutated_text(original: str, mutations: list[Step], other: str = "") -> str:
    return "".join(map(chr, _apply([ord(char) for char in original], mutations, [ord(char) for char in other])))


def _apply(items: Items, mutations: list[Step], other: Items) -> Items:
    for mutate, place, end, new in mutations:
        if items:
            items = mutate(items, other or items, place, end, new)
    return items
