"""What no contract of import-linter can say: who may touch the rows of the ledger, and how large a folder may be."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_ROWS = ("broker_django/ledger/", "broker_django/models/", "broker_django/admin/", "broker_django/migrations/")
ROWS = {"DispatchRecord", "AttemptRecord", "ActionRecord"}
OF_THE_DATABASE = {f"broker_django.ledger.{name}" for name in ("rows", "database", "statements", "due", "figures")}


def names(tree: ast.AST) -> set[str]:
    """What a module names or imports, in full."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(each.name for each in node.names)}
            found |= {f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


def test_only_the_ledger_and_the_admin_touch_rows() -> None:
    files = [path for package in ("broker_django", "workers", "example") for path in (ROOT / package).rglob("*.py")]
    others = [path for path in files if not path.relative_to(ROOT).as_posix().startswith(WITH_ROWS)]
    assert len(others) > 100
    forbidden = ROWS | OF_THE_DATABASE
    found = {path.name: both for path in others if (both := forbidden & names(ast.parse(path.read_text())))}
    assert found == {}


ERRORS_OF_THE_DATABASE = {"DatabaseError", "OperationalError", "IntegrityError", "DataError", "DatabaseFailure"}


def test_workers_know_the_errors_of_the_ledger_by_its_protocol() -> None:
    """Another ledger has other errors: `failures` and `refusals`."""
    files = list((ROOT / "workers").rglob("*.py"))
    assert {
        path.name: both for path in files if (both := ERRORS_OF_THE_DATABASE & names(ast.parse(path.read_text())))
    } == {}


@pytest.mark.parametrize("package", ["broker_core", "broker_django", "workers", "chaos", "benchmarks", "example"])
def test_no_folder_has_more_than_fifteen_modules(package: str) -> None:
    modules = (path for path in (ROOT / package).rglob("*.py") if not path.name.startswith("__"))
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in modules)
    assert {folder: count for folder, count in counts.items() if count > 15} == {}
