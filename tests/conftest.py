from __future__ import annotations

import pytest

from broker_django.celery_app import get_app
from tests.servers import require


@pytest.fixture(scope="session", autouse=True)
def current_app() -> None:
    """pytest-celery makes an app when it is imported; the site's own is the current one."""
    get_app().set_current()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("server"):
        for program in marker.args:
            require(program)
