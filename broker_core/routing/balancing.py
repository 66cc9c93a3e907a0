"""Weighted choice: one of several destinations for a visitor, and processes for several pools."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BITS = 52
"""A float between 0 and 1 represents 53 bits exactly; one bit is left for rounding."""


def choose(weights: Mapping[Any, float], visitor: str, salt: str) -> Any:
    """Returns the name that weighted rendezvous hashing chooses for this visitor, or None if no weight is above 0.

    A visitor gets the same name in every process, whatever the order of the names. If a name is added or its weight
    grows, it only takes over what it gains; a name that is removed only loses its own share. The salt makes one choice
    independent of another. (Thaler and Ravishankar 1998; the logarithm makes the shares follow the weights.)
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
    """Returns a number between 0 and 1, both excluded, that looks random and is always the same for this text."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> (64 - BITS)) + 0.5) / float(1 << BITS)


def shares(weights: Mapping[Any, float]) -> dict[Any, float]:
    """Returns the share of each name, from 0 to 1."""
    total = sum(weight for weight in weights.values() if weight > 0)
    return {name: max(weight, 0) / total if total else 0.0 for name, weight in weights.items()}


def apportion(weights: Mapping[Any, float], seats: int) -> dict[Any, int]:
    """Distributes whole seats by weight, with the largest remainder method (Hamilton).

    Each name with a weight above 0 gets at least one seat; if there are too few seats, the heaviest names get them.
    """
    entitled = sorted((name for name in weights if weights[name] > 0), key=lambda name: (-weights[name], str(name)))
    given = dict.fromkeys(weights, 0)
    if seats <= len(entitled):
        return given | dict.fromkeys(entitled[: max(seats, 0)], 1)
    total = sum(weights[name] for name in entitled)
    quotas = {name: weights[name] * seats / total for name in entitled}
    small = [name for name in entitled if quotas[name] < 1]
    if small:  # each of them gets its one seat, the others share the rest
        rest = apportion({name: weights[name] for name in entitled if name not in small}, seats - len(small))
        return given | dict.fromkeys(small, 1) | rest
    given |= {name: int(quotas[name]) for name in entitled}
    by_remainder = sorted(entitled, key=lambda name: int(quotas[name]) - quotas[name])
    for name in by_remainder[: seats - sum(given.values())]:
        given[name] += 1
    return given
