"""A request that waits in a queue is answered as it would be at once, under ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.comparison.comparing import compare
from tests.acceptance.comparison.shapes import shapes_of

if TYPE_CHECKING:
    from tests.acceptance.comparison.shape import Shape
    from tests.acceptance.conftest import Site


@pytest.mark.parametrize("shape", shapes_of("asgi"), ids=str)
def test_held_and_polled_are_as_direct(shape: Shape, compared_asgi: Site) -> None:
    compare(compared_asgi.url, "asgi", shape)
