from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers import require

if TYPE_CHECKING:
    import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("server"):
        for program in marker.args:
            require(program)
