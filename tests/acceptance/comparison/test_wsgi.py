"""A request that waits in a queue is answered as it would be at once, under WSGI."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.comparison.comparing import compare
from tests.acceptance.comparison.differences import DIFFERENCES
from tests.acceptance.comparison.observing import Way
from tests.acceptance.comparison.shapes import SHAPES, shapes_of

if TYPE_CHECKING:
    from tests.acceptance.comparison.differences import Difference
    from tests.acceptance.comparison.shape import Shape
    from tests.acceptance.conftest import Site


@pytest.mark.parametrize("shape", shapes_of("wsgi"), ids=str)
def test_held_and_polled_are_as_direct(shape: Shape, compared_wsgi: Site) -> None:
    compare(compared_wsgi.url, "wsgi", shape)


def test_there_are_as_many_shapes_as_promised_and_each_has_a_name_of_its_own() -> None:
    assert len(SHAPES) >= 150
    assert [name for name, times in Counter(map(str, SHAPES)).items() if times > 1] == []


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.reason)
def test_each_difference_that_is_documented_is_one_of_a_shape(difference: Difference) -> None:
    assert any(difference.concerns(shape, "wsgi", Way.POLLED) for shape in SHAPES)
