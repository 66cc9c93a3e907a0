"""A project with its neighbours: in this process with Celery eager, or as processes of its own on PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest

from broker_django.development.ports import any_port
from tests import servers
from tests.containers import ROOT, Process
from tests.integration.identity.conftest import before_replay  # noqa: F401 - a fixture
from tests.neighbours import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx
    from django.test import Client

QUEUED = {"X-Queue": "yes"}
PATIENCE = 30
"""Seconds for which a client waits for its dispatch."""


# In this process


def direct(client: Client, path: str, **headers: str) -> Any:
    """Returns the response of the view without the broker."""
    return client.post(path, headers=headers)


def accepted(client: Client, path: str, **headers: str) -> dict[str, str]:
    """Returns the links of a dispatch that was replayed."""
    response = client.post(path, headers={**QUEUED, **headers})
    assert response.status_code == 202, response.content
    return dict(response.json()["links"])


def queued(client: Client, path: str, **headers: str) -> Any:
    """Returns the response of a replay, as the client gets it."""
    return client.get(accepted(client, path, **headers)["response"], headers=headers)


# As processes


@pytest.fixture(scope="session")
def redis() -> Iterator[servers.MessageBroker]:
    with servers.valkey() as broker:
        yield broker


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    with servers.postgres() as variables:
        yield variables


@dataclass(frozen=True, slots=True)
class Project:
    """A project that is migrated: its variables, and how its processes are started. They end with the test."""

    variables: dict[str, str]
    started: contextlib.ExitStack

    @property
    def dsn(self) -> str:
        given = self.variables
        return (
            f"host=127.0.0.1 port={given['POSTGRES_PORT']} user={given['POSTGRES_USER']} dbname={given['POSTGRES_DB']}"
        )

    def manage(self, *command: str) -> str:
        """Returns the output of a management command. Its failure fails the test."""
        argv = [sys.executable, "-m", "django", *command]
        done = subprocess.run(
            argv,
            cwd=ROOT,
            env={**os.environ, **self.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def run(self, code: str) -> str:
        """Returns the output of Python code that runs with the settings of the project."""
        return self.manage("shell", "--no-imports", "-c", code)

    def web(self, interface: str = "wsgi") -> str:
        """Start a web server. Returns its URL."""
        port = any_port()
        url = f"http://127.0.0.1:{port}"
        if interface == "asgi":
            command = [sys.executable, "-m", "uvicorn", "tests.site.asgi:application", "--port", str(port)]
            command += ["--lifespan", "off"]
        else:
            command = [sys.executable, "-m", "gunicorn", "tests.site.wsgi:application", f"--bind=127.0.0.1:{port}"]
            command += ["--worker-class=gthread", "--threads=4", "--no-control-socket"]
        process = Process("web", command, self.variables, lambda: servers.is_healthy(url))
        self.started.enter_context(servers.serving(process))
        return url

    def worker(self, *options: str) -> Process:
        command = [sys.executable, "-m", "django", "broker_worker", "--noreload", "--concurrency=2", *options]
        return self.started.enter_context(servers.serving(Process("worker", command, self.variables, " ready.")))


@pytest.fixture
def start(redis: servers.MessageBroker, cluster: dict[str, str]) -> Iterator[Callable[..., Project]]:
    """Make a project of `tests.neighbours.projects`, with a database of its own."""
    with contextlib.ExitStack() as started:

        def make(name: str, *migrate: str, **variables: str) -> Project:
            database = f"{name}_{any_port()}"
            port, user = cluster["POSTGRES_PORT"], cluster["POSTGRES_USER"]
            with psycopg.connect(f"host=127.0.0.1 port={port} user={user} dbname=postgres", autocommit=True) as link:
                link.execute(f'CREATE DATABASE "{database}"')
            given = {
                **cluster,
                "POSTGRES_DB": database,
                "BROKER_URL": redis.url,
                "PREFIX": f"n{any_port()}",
                "EAGER": "0",
                "DJANGO_SETTINGS_MODULE": SETTINGS,
                "NEIGHBOUR": name,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                **variables,
            }
            project = Project(given, started)
            project.manage(*(migrate or ("migrate", "--verbosity=0")))
            return project

        yield make


def links_of(response: httpx.Response) -> dict[str, str]:
    """The paths of a dispatch: no name server knows the hosts of a test."""
    assert response.status_code == 202, response.text
    return {name: urlsplit(link).path for name, link in response.json()["links"].items()}


def finished(client: httpx.Client, response: httpx.Response, **headers: str) -> httpx.Response:
    """The stored response of an accepted request."""
    links = links_of(response)
    document = client.get(links["self"], params={"wait": PATIENCE}, headers=headers).json()
    assert document.get("done"), document
    return client.get(links["response"], headers=headers)
