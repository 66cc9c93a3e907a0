"""A separate site under both interfaces, with one worker and its own servers."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests import servers, vendors
from tests.acceptance.conftest import Site, WorkerProcess, _start_site, broker_worker
from tests.containers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yields the variables of a separate database, message broker and worker."""
    with ExitStack() as started:
        broker = started.enter_context({**servers.BROKERS, **vendors.BROKERS}[servers.BROKER]())
        variables = {
            **started.enter_context(servers.DATABASES[servers.DATABASE]()),
            "DJANGO_SETTINGS_MODULE": "tests.acceptance.comparison.settings",
            "BROKER_URL": broker.url,
            "EAGER": "0",
            "COMPARISON": str(tmp_path_factory.mktemp("comparison")),
            "PYTHONHASHSEED": "0",  # django-csp writes its directives in the order of a set
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        prepare = [sys.executable, "-m", "tests.acceptance.prepare"]
        subprocess.run(prepare, check=True, cwd=ROOT, env={**os.environ, **variables})
        worker = WorkerProcess("comparison", broker_worker("comparison"), variables, " ready.")
        started.enter_context(servers.serving(worker))
        yield variables


def _serve(interface: str, variables: dict[str, str]) -> Iterator[Site]:
    site = _start_site(interface, variables)
    with servers.serving(site.process):
        yield site


@pytest.fixture(scope="package")
def compared_asgi(installation: dict[str, str]) -> Iterator[Site]:
    yield from _serve("asgi", installation)


@pytest.fixture(scope="package")
def compared_wsgi(installation: dict[str, str]) -> Iterator[Site]:
    yield from _serve("wsgi", installation)
