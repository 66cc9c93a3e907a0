"""The table, by subject."""

from tests.acceptance.comparison.shape import Shape
from tests.acceptance.comparison.shapes import accounts, answers, decorators, frameworks, requests

SHAPES: list[Shape] = [
    *requests.SHAPES,
    *answers.SHAPES,
    *accounts.SHAPES,
    *decorators.SHAPES,
    *frameworks.SHAPES,
]


def shapes_of(interface: str) -> list[Shape]:
    """Those that its server takes."""
    return [shape for shape in SHAPES if shape.only in {"", interface}]
