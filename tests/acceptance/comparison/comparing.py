"""One shape, in all three ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.comparison.differences import expected, is_answered_at_the_door
from tests.acceptance.comparison.observing import Way, observe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.comparison.observing import Observation
    from tests.acceptance.comparison.shape import Shape


def compare(url: str, interface: str, shape: Shape) -> None:
    """Fail with each part that differs."""
    direct, _ = observe(url, shape, Way.DIRECT)
    held, _ = observe(url, shape, Way.HELD)
    polled, was_polled = observe(url, shape, Way.POLLED)
    found = [
        *_deviations(Way.HELD, expected(shape, interface, Way.HELD, direct), held),
        *_deviations(Way.POLLED, expected(shape, interface, Way.POLLED, direct), polled),
    ]
    if was_polled == is_answered_at_the_door(shape):
        found.append(f"polled: {was_polled}")
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def _deviations(way: Way, wanted: Observation, seen: Observation) -> Iterator[str]:
    for part in sorted(wanted.keys() | seen.keys()):
        if wanted.get(part) != seen.get(part):
            yield f"{way}: {part}: {wanted.get(part)!r} became {seen.get(part)!r}"
