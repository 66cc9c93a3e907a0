"""What README and docs/ say, held against the code. Other tests run their code blocks."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.core.management import load_command_class
from django.core.management.base import CommandError

import broker_django.management.commands as commands_package
from broker_core.policies import QueuePolicy
from broker_django import checks
from broker_django.admin import dispatches  # noqa: F401 - registers its actions
from broker_django.conf import DEFAULTS
from broker_django.urls import urlpatterns
from tests import documents
from tests.documents import PAGES, README, REPOSITORY, ROOT, TOP_LEVEL, Block
from tests.processes import finished

if TYPE_CHECKING:
    from django.core.management.base import BaseCommand

REFERENCE = ROOT / "docs" / "reference"
RUN = {"python", "settings", "cel", "ini", "yaml", "shop", "project", "script"}
"""The kinds of blocks that tests/integration/test_documents.py and tests/acceptance/test_transcripts.py run."""

BLOCKS = [block for page in [*PAGES, *TOP_LEVEL[1:]] for block in documents.blocks(page)]
COMMANDS = [each.stem for each in Path(commands_package.__path__[0]).glob("[!_]*.py")]


def command(name: str) -> BaseCommand:
    return load_command_class("broker_django", name)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.location)
def test_every_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.reason or block.kind in RUN | {"diagram"}


def test_readme_has_at_most_600_words() -> None:
    assert len(documents.words(README)) <= 600


def test_the_quickstart_is_shorter_than_20_lines() -> None:
    quickstart = [each for each in documents.blocks(README) if each.kind in {"script", "shop"} and not each.reason]
    assert sum(len(each.code.splitlines()) for each in quickstart) < 20


@pytest.mark.parametrize("page", [*PAGES, *TOP_LEVEL[1:]], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_are_valid(page: Path) -> None:
    """Those within the repository; `make docs` checks those within the site, but no pictures."""
    for link in documents.links(page):
        address, _, fragment = link.partition("#")
        for start in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/"):
            address = address.replace(start, "/")
        address = address.replace(f"{REPOSITORY.replace('//github.com', '//raw.githubusercontent.com')}/main/", "/")
        if "://" in address:
            continue
        target = ROOT / address[1:] if address.startswith("/") else (page.parent / address if address else page)
        assert target.exists(), link
        assert not fragment or target.suffix == ".png" or fragment in documents.anchors(target), link


@pytest.mark.parametrize("page", TOP_LEVEL, ids=lambda page: page.name)
def test_links_of_top_level_pages_work_elsewhere_too(page: Path) -> None:
    """PyPI shows README, and the site includes the others."""
    assert [link for link in documents.links(page) if not link.startswith(("https://", "#"))] == []


CODE = [
    path
    for folder in ("broker_core", "broker_django", "workers", "chaos", "benchmarks", "example", "tests")
    for path in (ROOT / folder).rglob("*.py")
]


def test_pages_that_are_named_elsewhere_exist() -> None:
    for path in [*CODE, *TOP_LEVEL]:
        for name in re.findall(r"docs/[\w/-]+\.md", path.read_text()):
            assert (ROOT / name).is_file(), f"{path}: {name}"


def rows(page: str) -> dict[str, str]:
    """The first column of all tables of a page, and the rest of each row."""
    found = re.findall(r"^\| (`.+?) \| (.+) \|$", (REFERENCE / page).read_text(), re.MULTILINE)
    return {name: rest for names, rest in found for name in re.findall(r"`([^`]+)`", names)}


def test_every_setting_is_documented() -> None:
    documented = rows("settings.md")
    assert set(DEFAULTS) <= set(documented)
    assert {each.name for each in fields(QueuePolicy)} <= set(documented)
    assert {name for name in documented if name.isupper()} <= set(DEFAULTS)


@pytest.mark.parametrize("name", [name for name, value in DEFAULTS.items() if isinstance(value, bool | int | str)])
def test_the_default_of_a_setting_is_documented(name: str) -> None:
    documented = rows("settings.md")[name].partition(" | ")[0].strip("`")
    sizes = {10 * 1024 * 1024: "10 MiB", 256 * 1024: "256 KiB", 30 * 86_400: "30 days"}
    value = DEFAULTS[name]
    if name == "DISPATCHER":
        value = "rows, decorators and rules"
    elif isinstance(value, str):
        value = f'"{value}"'
    assert documented == sizes.get(value, str(value))


@pytest.mark.parametrize("field", fields(QueuePolicy), ids=lambda field: field.name)
def test_the_default_of_a_policy_is_documented(field) -> None:
    documented = rows("settings.md")[field.name].replace(",", "")
    value = getattr(QueuePolicy(), field.name)
    if field.name == "retention":
        value = "7 days"
    elif field.name == "celery_queue":
        value = "`PREFIX` and the name"
    elif isinstance(value, str):
        value = f'`"{value}"`'
    elif isinstance(value, bool):
        value = f"`{value}`"
    elif value is None:
        value = "none"
    elif isinstance(value, float):
        value = f"{value:g}"
    assert documented.startswith(str(value)), documented


def test_documented_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "how-to" / "install.md").read_text()
    documented = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ", page, re.MULTILINE)
    assert documented
    assert {name for names in documented for name in re.findall(r"\w+", names)} <= set(project["optional-dependencies"])


def test_every_check_is_documented() -> None:
    code = "".join(module.read_text() for module in Path(checks.__file__).parent.rglob("*.py"))
    documented = (REFERENCE / "checks.md").read_text()
    assert set(re.findall(r"request_broker\.([EW]\d{3})", code)) == set(re.findall(r"\b([EW]\d{3})\b", documented))


def test_every_endpoint_is_documented() -> None:
    documented = (REFERENCE / "endpoints.md").read_text()
    for pattern in urlpatterns:
        assert f"`GET {str(pattern.pattern).replace('<broker_token:token>', 'TOKEN')}`" in documented


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_its_options_are_documented(name: str) -> None:
    documented = (REFERENCE / "commands.md").read_text()
    _, found, section = documented.partition(f"\n## `{name}")
    assert found
    section = section.partition("\n## ")[0]
    own = command(name).create_parser("manage.py", name)
    common = command("broker_doctor").create_parser("manage.py", "broker_doctor")
    shared = {option for action in common._actions for option in action.option_strings}
    for action in own._actions:
        options = [option for option in action.option_strings if option not in shared]
        if options:
            assert any(f"`{option}" in section or f" {option}" in section for option in options), options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_exist_with_their_options(page: Path) -> None:
    for span in re.findall(r"`([^`{\[]+)`", documents.without_code(page)):
        if span.startswith(("manage.py broker_", *COMMANDS)):
            parse(span.removeprefix("manage.py "))


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if "manage.py" in block.code], ids=lambda block: block.location
)
def test_commands_in_blocks_exist_with_their_options(block: Block) -> None:
    """Those that no test runs, too."""
    code = re.sub(r'[\[\]",]', " ", block.code) if block.language == "yaml" else block.code
    for line in re.findall(r"manage\.py +((?:broker_|import_).*)", code):
        parse(line)


MODULES = sorted(set(re.findall(r"python -m ([\w.]+)", (ROOT / "CONTRIBUTING.md").read_text())) - {"tests.attacks"})


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_contributing_names_can_be_asked(module: str) -> None:
    """Those that take options print their usage. tests/integration/test_attacks.py runs the other one."""
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    asked = finished([sys.executable, "-m", module, "--help"], {**kept, "PYTHONPATH": str(ROOT)})
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout


REQUIRED = {"broker_explain": ["GET", "/"], "broker_dispatches": ["list"]}
"""What a command that is only named lacks."""


def parse(line: str) -> None:
    """Raises CommandError for what `manage.py` would refuse."""
    name, *arguments = shlex.split(line, comments=True)
    if name not in COMMANDS:
        raise CommandError(f"There is no command {name}.")
    lacks = not arguments or arguments[0].startswith("-")
    command(name).create_parser("manage.py", name).parse_args([*(REQUIRED.get(name, []) if lacks else []), *arguments])


@pytest.mark.parametrize(
    ("expected", "output", "matched"),
    [
        ("HTTP/1.1 202 Accepted\n…\nLocation: …/\n", "HTTP/1.1 202 Accepted\r\nDate: now\r\nLocation: /a/\r\n", True),
        ("HTTP/1.1 202 Accepted\n…\nLocation: …/\n", "HTTP/1.1 202 Accepted\r\nLocation: /a/\r\n", True),
        ("HTTP/1.1 202 Accepted\n…\n", "HTTP/1.1 200 OK\r\nDate: now\r\n", False),
        ('{"id": "…", "done": true}\n', '{"id": "1", "done": true}', True),
        ('{"id": "…", "done": true}\n', '{"id": "1", "done": true, "error": null}', False),
        ("a\n", "a\nb\n", False),
    ],
)
def test_parts_that_a_page_leaves_out_of_an_output(expected: str, output: str, *, matched: bool) -> None:
    assert documents.matches(expected, output) is matched
