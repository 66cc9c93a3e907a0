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
