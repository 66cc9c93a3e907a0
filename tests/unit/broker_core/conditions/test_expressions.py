import subprocess
import sys

import pytest

COMMAND_LINE = ("typer", "rich", "prompt_toolkit", "pygments")


def printed_by(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return ran.stdout.strip()


def test_conditions_do_not_load_cels_command_line():
    code = f"import sys, broker_core.conditions; print(sorted(set({COMMAND_LINE}).intersection(sys.modules)))"
    assert printed_by(code) == "[]"


@pytest.mark.parametrize("first", ["broker_core.conditions", "cel.cli"])
def test_the_command_line_can_still_be_imported(first):
    code = (
        f"import {first}; import broker_core.conditions; from cel import cli; import cel; print(cel.cli.app is cli.app)"
    )
    assert printed_by(code) == "True"
