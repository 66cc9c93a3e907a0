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
    """Each test begins with a message broker that nobody has found down."""
    publishing.breaker.succeeded()


@pytest.fixture(autouse=True)
def nobody_held() -> None:
    """Each test begins in a process that has held no client: one that has a single thread rations what it waits."""
    places.reset()


@pytest.fixture
def own_app():
    """Whatever app is configured during the test is forgotten afterwards."""
    before = celery_app.get_app()
    yield before
    celery_app.use(before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("server"):
        for program in marker.args:
            require(program)
