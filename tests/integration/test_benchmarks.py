"""The measurements of a ledger compare two databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.containers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import json, django
django.setup()
from django.core.management import call_command
from django.db import connections
from benchmarks import ledgers

def rows(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM broker_django_dispatchrecord")
        return cursor.fetchone()[0]

def both():
    return [rows(alias) for alias in (ledgers.EMPTY, ledgers.FULL)]

call_command("migrate", verbosity=0)
with ledgers.ledgers(100) as chosen:
    seen = [both()]
    for alias in (ledgers.FULL, ledgers.EMPTY, ledgers.FULL):
        chosen.run(alias, ledgers.run_one)
        seen.append(both())
print(json.dumps(seen))
"""


@pytest.mark.server("postgres")
def test_each_ledger_is_used_in_its_own_database(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        "DATABASE_PATH": str(tmp_path / "benchmarks.sqlite3"),
        "BROKER_URL": "memory://",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 100], [0, 101], [1, 101], [1, 102]]
