"""docker-compose.yml without Docker: the command of every service as a local process, judged by its health check."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from broker_django.development.ports import any_port
from tests import servers
from tests.containers import ROOT, Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / "example"
OWN = ("migrate", "web", "workers", "flower")
"""The services that are commands of this project's image."""
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?:-(?P<default>[^}]*)|\?(?P<missing>[^}]*)))?\}")
OF_ENV = {"SECRET_KEY": "made-for-this-test", "POSTGRES_PASSWORD": "shop"}
"""Returns the .env file, with all variables that have no default."""


def _filled_in(variable: re.Match[str]) -> str:
    return OF_ENV[variable["name"]] if variable["missing"] else variable["default"] or ""


def described() -> dict[str, Any]:
    """Returns the services with variables from the smallest .env file."""
    text = VARIABLE.sub(_filled_in, COMPOSE.read_text())
    return yaml.safe_load(text)["services"]


class Installation:
    """Returns the services for this machine: host names and ports are replaced by free loopback ports."""

    def __init__(self, home: Path, postgres: Mapping[str, str]) -> None:
        self.services = described()
        self.ports = {name: str(any_port()) for name in ("6379", "8000", "5555")}
        self.ports["5432"] = postgres["POSTGRES_PORT"]
        self._home = home

    def here(self, text: str) -> str:
        """The text with hosts and ports of this machine."""
        text = re.sub(r"\b(redis|postgres)(?=:\d)|0\.0\.0\.0", "127.0.0.1", text).replace("$$", "$")
        return re.sub(r"\b(" + "|".join(self.ports) + r")\b", lambda match: self.ports[match[0]], text)

    def environment(self, name: str) -> dict[str, str]:
        """As in the image, with the programs of this environment and the packages of this tree."""
        given = {key: self.here(str(value)) for key, value in self.services[name].get("environment", {}).items()}
        if "POSTGRES_HOST" in given:
            given["POSTGRES_HOST"] = "127.0.0.1"
        inherited = {"HOME": str(self._home), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return inherited | given | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def command(self, name: str) -> list[str]:
        return [self.here(part) for part in self.services[name]["command"]]

    def healthy(self, name: str) -> bool:
        kind, *test = self.services[name]["healthcheck"]["test"]
        command = [self.here(part) for part in test]
        return not self.run(name, command if kind == "CMD" else ["sh", "-c", *command]).returncode

    def run(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.home_of(name),
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def home_of(self, name: str) -> Path:
        return EXAMPLE if name in OWN else self._home

    def start(self, name: str) -> Process:
        # In the shell, so that the variables are those of the service alone.
        inside = ["env", "-i", *(f"{key}={value}" for key, value in self.environment(name).items())]
        script = f"cd {shlex.quote(str(self.home_of(name)))} && exec {shlex.join([*inside, *self.command(name)])}"
        return Process(name, ["sh", "-c", script], ready_prompt=lambda: self.healthy(name), stop_signal=signal.SIGTERM)

    def url(self, name: str, path: str) -> str:
        _, _, inside = self.services[name]["ports"][0].split(":")
        return f"http://127.0.0.1:{self.ports[inside]}{path}"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    for program in ("redis-server", "redis-cli"):
        servers.require(program)
    with servers.postgres("shop") as postgres, contextlib.ExitStack() as processes:
        installation = Installation(tmp_path_factory.mktemp("compose"), postgres)
        processes.enter_context(servers.serving(installation.start("redis")))
        migrated = installation.run("migrate", installation.command("migrate"))
        assert migrated.returncode == 0, migrated.stderr
        started = [installation.start(name) for name in ("web", "workers", "flower")]
        for process in started:
            processes.enter_context(servers.serving(process))
        yield installation


def test_every_service_has_a_health_check_and_waits_for_its_dependencies() -> None:
    services = described()
    assert set(services) == {"redis", "postgres", *OWN}
    for name, service in services.items():
        assert "healthcheck" in service or name == "migrate"
        for needed, condition in service.get("depends_on", {}).items():
            assert condition["condition"] in {"service_healthy", "service_completed_successfully"}
            assert needed in services


def test_nothing_is_open_to_other_machines() -> None:
    ports = [port for service in described().values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.server("redis-server", "postgres")
@pytest.mark.timeout(180)
def test_web_workers_and_flower_work_together(installation: Installation) -> None:
    """Yields the services when all are healthy, by their own health checks."""
    with httpx.Client(trust_env=False, timeout=20) as client:
        assert client.get(installation.url("web", "/broker/health/")).json() == {"status": "pass"}
        assert client.get(installation.url("web", "/")).status_code == 200
        assert client.get(installation.url("flower", "/healthcheck")).status_code == 200

        accepted = client.post(installation.url("web", "/webhooks/settlement/"), json={"order": "none"})
        assert accepted.status_code == 202, accepted.text
        document = client.get(accepted.json()["links"]["self"], params={"wait": 20}).json()
        assert document["done"], document
        assert document["response"]["status"] < 500
