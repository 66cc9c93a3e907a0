from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.test import override_settings

from tests.fuzz.examples import AT_LEAST, tried

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_long_polls() -> Iterator[None]:
    """Waits of clients end at once."""
    with override_settings(REQUEST_BROKER={"MAX_WAIT": 0.001}):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if tried:
        terminalreporter.write_line(f"fuzzing: {tried.total()} examples in {len(tried)} properties")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if tried.total() < AT_LEAST:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
