"""Every block of README and docs/ that needs no server runs here, as it stands there, one page after another."""

from __future__ import annotations

import configparser
import re
import shlex
import sys
from copy import deepcopy
from io import StringIO
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from celery import current_app
from django.conf import global_settings
from django.conf import settings as the_site
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.core.management import call_command
from django.http import JsonResponse
from django.test import override_settings

from broker_core.conditions import Condition
from broker_django.decorators import queue
from tests import documents
from tests.documents import PAGES, ROOT, Block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("own_app")]

ELSEWHERE = {ROOT / "docs" / "how-to" / "dispatch-from-code.md"}
"""tests/integration/dispatching/test_documented_dispatches.py runs it, and looks at what comes of it."""

KINDS = {"python", "settings", "cel", "ini", "yaml", "project"}

OWN_APPS = {"django_celery_results", "broker_django"}

RUNNABLE = {
    page: [block for block in documents.blocks(page) if block.kind in KINDS and not block.reason]
    for page in PAGES
    if page not in ELSEWHERE
}


class Reader:
    """Follows a page from its first block to its last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        package = ModuleType("mysite")
        package.__path__ = []
        monkeypatch.setitem(sys.modules, "mysite", package)
        self.namespace: dict[str, Any] = {
            "JsonResponse": JsonResponse,
            "charge": lambda _user, _order: 1,
            "queue": queue,
            "user": User.objects.create_user("ada"),
            "urlpatterns": [],
        }
        self.taken_on: dict[str, Any] = {}

    def python(self, block: Block) -> None:
        """What begins with the name of a file can be imported from there by later blocks."""
        if named := re.match(r"# (mysite/\w+)\.py\n", block.code):
            name = named[1].replace("/", ".").removesuffix(".__init__")
            module = ModuleType(name)
            self.monkeypatch.setitem(sys.modules, name, module)
            module.__dict__.update(self.namespace, __package__="mysite")
            exec(block.code, module.__dict__)
        else:
            exec(block.code, self.namespace)

    def settings(self, block: Block) -> None:
        """Takes the settings on, and asks Django what is wrong with them."""
        found = {name: deepcopy(getattr(the_site, name, None)) for name in ("INSTALLED_APPS", "MIDDLEWARE")}
        found["INSTALLED_APPS"] = [
            app for app in found["INSTALLED_APPS"] if "celery" not in app and "broker" not in app
        ]
        found["MIDDLEWARE"] = [path for path in found["MIDDLEWARE"] if "broker" not in path]
        before = deepcopy(found)
        exec(block.code, {"BASE_DIR": ROOT}, found)
        changed = {name: value for name, value in found.items() if value != before.get(name)}
        known = set(dir(global_settings)) | {"REQUEST_BROKER"}
        assert {name for name in changed if not name.startswith("CELERY_")} <= known
        self.taken_on |= changed
        changed.pop("DATABASES", None)  # connections that are open do not follow
        before_it = run_checks()
        with override_settings(**changed):
            assert [str(each) for each in run_checks() if each not in before_it] == []

    def cel(self, block: Block) -> None:
        for line in block.code.splitlines():
            Condition(line)

    def ini(self, block: Block) -> None:
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read_string(block.code)
        assert "broker_worker" in parser["Service"]["ExecStart"]

    def yaml(self, block: Block) -> None:
        assert all(each["kind"] == "Deployment" for each in yaml.safe_load_all(block.code))

    def project(self, block: Block) -> None:
        for command, expected in documents.commands(block):
            python, manage, name, *arguments = shlex.split(command)
            assert (python, manage) == ("python", "manage.py")
            output = StringIO()
            with override_settings(**self.taken_on):
                call_command(name, *arguments, stdout=output)
            assert documents.matches(expected, output.getvalue()), output.getvalue()


@pytest.fixture
def celery_as_it_was() -> Iterator[None]:
    """A page may make a Celery app, which becomes the current one."""
    before = current_app._get_current_object()
    yield
    before.set_current()


@pytest.mark.usefixtures("celery_as_it_was")
@pytest.mark.parametrize(
    "page", [page for page, found in RUNNABLE.items() if found], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_blocks_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(monkeypatch)
    for block in RUNNABLE[page]:
        getattr(reader, block.kind)(block)
