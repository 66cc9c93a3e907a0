"""Fixtures for tests of users and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def before_replay() -> Iterator[Callable[[Any], None]]:
    """Returns a function that registers a callable to run between acceptance and replay."""
    connected = []

    def arrange(function: Any) -> None:
        def receiver(**_: Any) -> None:
            function()

        signals.task_prerun.connect(receiver, weak=False)
        connected.append(receiver)

    yield arrange
    for receiver in connected:
        signals.task_prerun.disconnect(receiver)
