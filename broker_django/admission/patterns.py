"""The pattern of a URL, by which a dispatch names what its request was for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.urls import ResolverMatch


def pattern_of(match: ResolverMatch | None) -> str:
    """Returns the pattern that the URL matched, such as `/orders/<int:pk>/`; `/` if no URL was resolved."""
    route = match.route if match is not None else ""
    plain = _without_regex(route) if route.startswith("^") or "(?P" in route else f"/{route}"
    return plain[:500]


def _without_regex(route: str) -> str:
    from django.contrib.admindocs import utils  # noqa: PLC0415 - most projects do without it

    for simplify in (
        utils.remove_non_capturing_groups,
        utils.replace_named_groups,
        utils.replace_unnamed_groups,
        utils.replace_metacharacters,
    ):
        route = simplify(route)
    return route if route.startswith("/") else f"/{route}"
