"""What a client that was held, or that polls, sees otherwise than one whose view was called at once.

Each row also says what is seen instead. A difference that does not come, or comes otherwise, fails the comparison too.
docs/replay.md has them in the section "Differences that stay".
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from tests.acceptance.comparison.observing import Observation, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.comparison.shape import Shape

GONE = object()
"""Instead of a value: the part is not there."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What becomes of `part` in these shapes, and why.

    `becomes` takes the value of the direct request, or GONE, and returns what is seen instead, or GONE. `applies` looks
    at the direct observation.
    """

    reason: str
    shapes: tuple[str, ...]
    part: str
    becomes: Callable[[Any], Any]
    ways: tuple[Way, ...] = (Way.HELD, Way.POLLED)
    interfaces: tuple[str, ...] = ("asgi", "wsgi")
    applies: Callable[[Observation], bool] = lambda _direct: True

    def concerns(self, shape: Shape, interface: str, way: Way, direct: Observation) -> bool:
        return (
            way in self.ways
            and interface in self.interfaces
            and any(fnmatchcase(shape.name, pattern) for pattern in self.shapes)
            and self.applies(direct)
        )


DIFFERENCES: tuple[Difference, ...] = ()


def expected(shape: Shape, interface: str, way: Way, direct: Observation) -> Observation:
    """What the shape is expected to show this way."""
    seen = dict(direct)
    for difference in DIFFERENCES:
        if difference.concerns(shape, interface, way, direct):
            value = difference.becomes(seen.pop(difference.part, GONE))
            if value is not GONE:
                seen[difference.part] = value
    return seen
