"""What an attacker tries is refused, line by line."""

from __future__ import annotations

import os
import sys

from tests.containers import ROOT
from tests.processes import finished


def test_each_attack_is_refused() -> None:
    done = finished([sys.executable, "-m", "tests.attacks"], {**os.environ, "PYTHONPATH": str(ROOT)})
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    assert [line for line in lines if not line.startswith("refused: ")] == [], done.stderr
    assert done.returncode == 0, done.stderr
