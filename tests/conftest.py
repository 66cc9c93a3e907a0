from __future__ import annotations

import pytest

from broker_django.messaging import celery_app, publishing
from broker_django.tracking.holding import places
from tests.servers import require


@pytest.fixture(scope="session", autouse=True)
def current_app() -> None:
    """pytest-celery makes an app when it is imported; the site's own is the current one."""
    celery_app.get_app().set_current()


@pytest.fixture(autouse=True)
def closed_breaker() -> None:
    """Reset the circuit breaker before each test."""
    publishing.breaker.succeeded()


@pytest.fixture(autouse=True)
def nobody_held() -> None:
    """Reset the held clients before each test: a process with a single thread limits its waiting time."""
    places.reset()


@pytest.fixture
def own_app():
    """Forget the app that was configured during the test."""
    before = celery_app.get_app()
    yield before
    celery_app.use(before)


LONGEST_FIRST = [
    "acceptance/comparison/test_wsgi",
    "acceptance/comparison/test_asgi",
    "integration/test_without_contrib_apps",
    "acceptance/test_held_clients",
    "acceptance/test_doctor",
    "acceptance/test_reloading",
    "acceptance/test_full_redis",
    "acceptance/test_dev_command",
    "acceptance/test_other_code",
    "acceptance/test_revoking",
    "acceptance/test_leftovers",
    "acceptance/test_reaping",
    "acceptance/test_large_bodies",
    "acceptance/test_pools",
    "acceptance/test_prefix",
    "acceptance/test_databases",
    "acceptance/test_outages",
    "fuzz/test_openapi",
]
"""Files of tests that take long. Together with what is in the folders below, they are most of the time."""
LONG = ["acceptance", "fuzz", "endpoints"]


def turn(item: pytest.Item) -> int:
    """Returns the order of its file: short files come last, so that all processes end at about the same time."""
    name = item.nodeid.partition(".py::")[0].removeprefix("tests/")
    if name in LONGEST_FIRST:
        return LONGEST_FIRST.index(name)
    return len(LONGEST_FIRST) + (name.partition("/")[0] not in LONG)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=turn)


def pytest_configure(config: pytest.Config) -> None:
    moved = [name for name in LONGEST_FIRST if not (config.rootpath / "tests" / f"{name}.py").is_file()]
    if moved:
        raise pytest.UsageError(f"LONGEST_FIRST in tests/conftest.py names files that are not there: {moved}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("server"):
        for program in marker.args:
            require(program)
