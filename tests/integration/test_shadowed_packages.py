"""Projects that have a package named like one of the broker's."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.internals import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = """
SECRET_KEY = "of a project with packages of its own"
BASE_DIR = "."
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_celery_results", "broker_django"]
MIDDLEWARE = ["broker_django.middleware.RequestBrokerMiddleware"]
ROOT_URLCONF = "urls"
"""
URLS = """
from django.urls import include, path

urlpatterns = [path("broker/", include("broker_django.urls"))]
"""
MANAGE = """
import os
import sys

# An editable install finds our modules below any package of the name.
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

from django.core.management import execute_from_command_line

execute_from_command_line(sys.argv)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {"settings.py": SETTINGS, "urls.py": URLS, "manage.py": MANAGE}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def package(project: Path, name: str) -> Path:
    (project / name).mkdir()
    (project / name / "__init__.py").touch()
    return project / name / "__init__.py"


def manage(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, check=False, cwd=project, env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_project_without_such_packages_passes_the_checks(project: Path) -> None:
    assert manage(project, "check").returncode == 0


@pytest.mark.parametrize("arguments", [["check"], ["check", "--deploy"]])
def test_the_checks_name_a_package_that_hides_the_workers(project: Path, arguments: list[str]) -> None:
    ours = package(project, "workers")

    run = manage(project, *arguments)

    assert run.returncode == 1
    assert f"(request_broker.E018) {ours} hides the package 'workers' of the request broker." in run.stderr
    assert "HINT: Rename the project's package" in run.stderr
    assert "Traceback" not in run.stderr


def test_broker_worker_names_a_module_that_hides_the_workers(project: Path) -> None:
    (project / "workers.py").touch()

    run = manage(project, "broker_worker", "--noreload")

    assert run.returncode == 1
    assert run.stderr.startswith(f"CommandError: {project / 'workers.py'} hides the package 'workers'")


def test_code_that_publishes_gets_the_same_message(project: Path) -> None:
    package(project, "workers")

    run = manage(project, "shell", "-c", "from broker_django.messaging.celery_app import get_app; get_app()")

    assert run.returncode == 1
    assert "hides the package 'workers' of the request broker. Rename" in run.stderr.splitlines()[-1]


def test_the_app_does_not_load_if_its_core_is_hidden(project: Path) -> None:
    ours = package(project, "broker_core")

    run = manage(project, "check")

    assert run.returncode == 1
    assert f"ImproperlyConfigured: {ours} hides the package 'broker_core' of the request broker. Rename" in run.stderr


def test_a_folder_that_is_not_a_package_hides_nothing(project: Path) -> None:
    (project / "workers").mkdir()

    assert manage(project, "check").returncode == 0
