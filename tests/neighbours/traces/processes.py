"""The project's processes, and what its tracer would have sent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import httpx

from broker_django.development.ports import any_port
from tests import servers
from tests.containers import ROOT, Process
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import MessageBroker

DONE = {"succeeded", "failed"}


class Project:
    """A web server, workers and a ledger."""

    def __init__(self, stack: contextlib.ExitStack, broker: MessageBroker, home: Path, **variables: str) -> None:
        self.broker = broker
        self._stack = stack
        self._file = home / "events"
        self._file.touch()
        self.variables = {
            "DJANGO_SETTINGS_MODULE": "tests.neighbours.traces.settings",
            "DATABASE_PATH": str(home / "broker.sqlite3"),
            "BROKER_URL": broker.url,
            "EVENTS": str(self._file),
            "FILES": str(home / "files"),
            "EAGER": "0",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **variables,
        }
        self.manage("migrate", "--verbosity=0", "--run-syncdb")

    def manage(self, *arguments: str) -> str:
        """Returns the output of the command."""
        command = [sys.executable, "-m", "django", *arguments]
        env = {**os.environ, **self.variables}
        return subprocess.run(command, check=True, env=env, cwd=ROOT, capture_output=True, text=True).stdout

    def web(self, interface: str = "wsgi") -> httpx.Client:
        port = any_port()
        module = f"tests.neighbours.traces.{interface}:application"
        command = [sys.executable, "-m", "gunicorn", module, f"--bind=127.0.0.1:{port}", "--no-control-socket"]
        if interface == "asgi":
            command = [sys.executable, "-m", "uvicorn", module, "--port", str(port), "--lifespan", "off"]
        url = f"http://127.0.0.1:{port}"
        process = Process(f"web-{interface}", command, self.variables, lambda: servers.is_healthy(url))
        self._stack.callback(process.teardown)
        process.ready()
        return self._stack.enter_context(httpx.Client(base_url=url, timeout=40, trust_env=False))

    def worker(self, *options: str) -> Process:
        command = [sys.executable, "-m", "celery", "-A", "tests.neighbours.traces.celery", "worker", "-Q"]
        command += ["payment,realtime,bulk,once,brief", f"--hostname={uuid.uuid4().hex[:8]}@%h", "--loglevel=INFO"]
        command += ["--without-mingle", *(options or ("--concurrency=1",))]
        process = Process("worker", command, self.variables, " ready.", stop_signal=signal.SIGKILL)
        self._stack.callback(process.teardown)
        process.ready()
        return process

    def events(self) -> list[dict[str, Any]]:
        """Returns all events so far, without an incomplete last line."""
        *lines, _unfinished = self._file.read_text().split("\n")
        return [json.loads(line) for line in lines]


@contextlib.contextmanager
def project(home: Path, **variables: str) -> Iterator[Project]:
    with servers.valkey() as broker, contextlib.ExitStack() as stack:
        yield Project(stack, broker, home, **variables)


def accepted(client: httpx.Client, path: str, queue: str = "bulk", **headers: str) -> dict[str, Any]:
    """The status document of a request that was queued."""
    response = client.get(path, headers={"X-Queue": queue, **headers})
    assert response.status_code == 202, response.text
    return response.json()


def over(client: httpx.Client, document: dict[str, Any], seconds: float = 30, **headers: str) -> dict[str, Any]:
    """Returns the status document when the dispatch is done."""
    found: dict[str, Any] = {}

    def is_over() -> bool:
        found.update(client.get(document["links"]["self"], params={"wait": "5"}, headers=headers).json())
        return bool(found["done"])

    wait_until(is_over, seconds)
    return found
