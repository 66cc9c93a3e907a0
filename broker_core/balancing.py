"""Choosing by weight: one of several destinations for a visitor, and processes for several pools."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BITS = 52
"""As many as a float between 0 and 1 holds exactly, with one to spare."""


def choose(weights: Mapping[Any, float], visitor: str, salt: str) -> Any:
    """The name that weighted rendezvous hashing gives this visitor; None where no weight is above 0.

    The same visitor gets the same name in every process and whatever the order. A name that is added, or gets more
    weight, takes over only what it gains; one that goes gives away only its own. The salt makes one choice
    independent of another. (Thaler and Ravishankar 1998; the logarithm makes shares follow weights.)
    """
    best, best_score = None, 0.0
    for name, weight in weights.items():
        if weight <= 0:
            continue
        score = weight / -math.log(_unit(f"{salt}\0{name}\0{visitor}"))
        if score > best_score or (score == best_score and str(name) < str(best)):
            best, best_score = name, score
    return best


def _unit(text: str) -> float:
    """A number between 0 and 1, neither of them included, that looks random and is always the same for this text."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> (64 - BITS)) + 0.5) / float(1 << BITS)


def shares(weights: Mapping[Any, float]) -> dict[Any, float]:
    """What part of the whole each name gets, from 0 to 1."""
    total = sum(weight for weight in weights.values() if weight > 0)
    return {name: max(weight, 0) / total if total else 0.0 for name, weight in weights.items()}


def apportion(weights: Mapping[Any, float], seats: int) -> dict[Any, int]:
    """Whole seats by weight, with the largest remainder method (Hamilton): the seats that fractions leave over go to
    the largest fractions.

    Each name of a weight above 0 has one seat at least, as far as there are seats: the heaviest first.
    """
    entitled = sorted((name for name in weights if weights[name] > 0), key=lambda name: (-weights[name], str(name)))
    given = dict.fromkeys(weights, 0)
    if seats <= len(entitled):
        return given | dict.fromkeys(entitled[: max(seats, 0)], 1)
    total = sum(weights[name] for name in entitled)
    quotas = {name: weights[name] * seats / total for name in entitled}
    small = [name for name in entitled if quotas[name] < 1]
    if small:  # they have their one seat, and the rest is shared among the others
        rest = apportion({name: weights[name] for name in entitled if name not in small}, seats - len(small))
        return given | dict.fromkeys(small, 1) | rest
    given |= {name: int(quotas[name]) for name in entitled}
    by_remainder = sorted(entitled, key=lambda name: int(quotas[name]) - quotas[name])
    for name in by_remainder[: seats - sum(given.values())]:
        given[name] += 1
    return given
