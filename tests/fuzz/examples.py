"""Property tests with a number of examples from the environment."""

from __future__ import annotations

import functools
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
CHEAP = 5
"""How many times as many examples are tried without input and output."""
AT_LEAST = int(os.environ.get("FUZZ_AT_LEAST", "0"))

tried: Counter[str] = Counter()
"""How many examples each test has tried."""


def fuzz(times: int = 1, /, **strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`given` with `times` as many examples, which are counted."""
    examples = settings(
        max_examples=times * EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize="CI" in os.environ,
    )

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> None:
            tried[test.__qualname__] += 1
            test(*args, **kwargs)

        return examples(given(**strategies)(counted))

    return decorate
