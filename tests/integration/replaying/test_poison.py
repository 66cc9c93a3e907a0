"""The views of the chaos run detect what another view leaves behind."""

from __future__ import annotations

import json
import os
import sys

import pytest

from chaos import journal, poison
from tests import servers
from tests.containers import ROOT
from tests.processes import finished

LEAVE_NOTHING = {*poison.RAISING, *poison.TIME_LIMITED, "close", "close-driver"}
"""Those that take something away instead."""

EACH_IN_ITS_OWN_PROCESS = """
import json, os, sys

import django

django.setup()

from django.db import connections
from chaos import leftovers, poison
from chaos.database import prepare

prepare()
connections.close_all()
for name in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    clean = list(leftovers.find())
    poison.act(name, 1)
    print(json.dumps([name, clean, list(leftovers.find())]), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize(("database", "vendor"), [("sqlite", "sqlite"), ("postgres", "postgresql")])
def test_a_view_detects_what_a_poison_left(tmp_path, database, vendor):
    names = sorted(set(poison.names(vendor)) - LEAVE_NOTHING)
    with servers.DATABASES[database]() as where:
        elsewhere = {name for name in os.environ if name.startswith(("MYSQL_", "POSTGRES_"))}
        variables = {name: value for name, value in os.environ.items() if name not in elsewhere}
        variables |= {**where, journal.VARIABLE: str(tmp_path / "journal"), "CHAOS_RELEASE": "old"}
        variables |= {"DJANGO_SETTINGS_MODULE": "chaos.site.settings", "PYTHONPATH": str(ROOT)}
        done = finished([sys.executable, "-c", EACH_IN_ITS_OWN_PROCESS, *names], variables)
    seen = {name: (clean, found) for name, clean, found in map(json.loads, done.stdout.splitlines())}
    assert list(seen) == names, done.stderr
    assert [name for name, (clean, found) in seen.items() if clean or not found] == []
