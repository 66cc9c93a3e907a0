"""`broker_worker` in DEBUG with a minimal project, whose code is edited while it runs. Messages are in memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker_django.development import parent_watch
from tests.containers import ROOT
from tests.processes import kill_in, processes_in, read_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = """\
SECRET_KEY = "not a secret"
DEBUG = True
APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_celery_results", "broker_django"]
INSTALLED_APPS = ["shop", *APPS]
MIDDLEWARE = ["broker_django.middleware.RequestBrokerMiddleware"]
ROOT_URLCONF = "urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CELERY_BROKER_URL = "memory://"
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 0
"""
URLS = """\
from django.urls import path
from shop.views import view
urlpatterns = [path("", view)]
"""
VIEWS = "def view(request): ...\n"
BROKEN = "def view(request: ...\n"
STUBBORN = """\
import signal, sys
if "--noreload" in sys.argv:
    from celery.signals import worker_shutting_down
    import time
    @worker_shutting_down.connect
    def linger(**_):
        print("LINGERS", flush=True)
        time.sleep(2)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "settings.py": SETTINGS,
        "urls.py": URLS,
        "shop/__init__.py": "",
        "shop/models.py": "",
        "shop/tasks.py": "",
        "shop/views.py": VIEWS,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


@contextlib.contextmanager
def worker(project: Path) -> Iterator[subprocess.Popen[str]]:
    variables = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{project}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        parent_watch.command([sys.executable, "-m", "django", "broker_worker", "--pool=solo"]),
        cwd=project,
        env={**os.environ, **variables, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            kill_in(project)


def ends(process: subprocess.Popen[str], project: Path, number: int = signal.SIGTERM) -> str:
    process.send_signal(number)
    rest, _ = process.communicate(timeout=30)
    wait_until(lambda: not processes_in(project))
    return rest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_edited_view_starts_the_worker_again_and_a_signal_ends_it_all(project: Path, number: int) -> None:
    with worker(project) as process:
        read_until(process, " ready.")
        (project / "shop/views.py").write_text("# edited\n" + VIEWS)
        assert "Code has changed" in read_until(process, " ready.")
        assert "Code has changed" not in ends(process, project, number)
        assert process.returncode == 0


@pytest.mark.parametrize("name", ["shop/models.py", "shop/views.py"])
def test_a_syntax_error_is_survived_and_mended(project: Path, name: str) -> None:
    path = project / name
    with worker(project) as process:
        read_until(process, " ready.")
        path.write_text(BROKEN)
        assert "SyntaxError" in read_until(process, "restarts when code changes")
        path.write_text(VIEWS)
        read_until(process, " ready.")
        ends(process, project)


@pytest.mark.parametrize("name", ["shop/views.py", "shop/tasks.py", "urls.py"])
def test_code_that_is_broken_from_the_start_is_watched(project: Path, name: str) -> None:
    path = project / name
    good = path.read_text()
    path.write_text(BROKEN)
    with worker(project) as process:
        assert "SyntaxError" in read_until(process, "restarts when code changes")
        path.write_text(good)
        read_until(process, " ready.")
        path.write_text(good + "# edited\n")
        read_until(process, " ready.")
        ends(process, project)


def test_a_signal_ends_a_supervisor_that_waits_for_a_change(project: Path) -> None:
    (project / "shop/tasks.py").write_text(BROKEN)
    with worker(project) as process:
        read_until(process, "restarts when code changes")
        assert " ready." not in ends(process, project)


def test_a_signal_during_a_restart_ends_it(project: Path) -> None:
    (project / "shop/tasks.py").write_text(STUBBORN)
    with worker(project) as process:
        read_until(process, " ready.")
        (project / "shop/views.py").write_text("# edited\n" + VIEWS)
        read_until(process, "LINGERS")
        assert " ready." not in ends(process, project)
