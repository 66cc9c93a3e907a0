"""A request that waits in a queue is answered as it would be at once: part by part, the state left behind too."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.comparison.differences import expected
from tests.acceptance.comparison.observing import Way, observe
from tests.acceptance.comparison.shapes import SHAPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.comparison.observing import Observation
    from tests.acceptance.comparison.shape import Shape
    from tests.acceptance.conftest import Site


def deviations(wanted: Observation, seen: Observation) -> Iterator[str]:
    """The parts that are not as they should be: as they should be, and as they are."""
    for part in sorted(wanted.keys() | seen.keys()):
        if wanted.get(part) != seen.get(part):
            yield f"{part}: {wanted.get(part)!r} became {seen.get(part)!r}"


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_held_and_polled_are_as_direct(shape: Shape, interface: str, compared_sites: dict[str, Site]) -> None:
    url = compared_sites[interface].url
    direct = observe(url, shape, Way.DIRECT)
    found = [
        f"{way}: {deviation}"
        for way in (Way.HELD, Way.POLLED)
        for deviation in deviations(expected(shape, interface, way, direct), observe(url, shape, way))
    ]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_there_are_as_many_shapes_as_promised_and_each_has_a_name_of_its_own() -> None:
    assert len(SHAPES) >= 150
    assert [name for name, times in Counter(map(str, SHAPES)).items() if times > 1] == []
