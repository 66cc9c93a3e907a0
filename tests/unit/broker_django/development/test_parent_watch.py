from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from broker_django.development import parent_watch
from tests.processes import finished, is_gone, read_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = [sys.executable, "-c", "import os, signal; print('program', os.getpid(), flush=True); signal.pause()"]
STUBBORN_SOURCE = """\
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("program", os.getpid(), flush=True)
signal.pause()
"""
STUBBORN = [sys.executable, "-c", STUBBORN_SOURCE]
PARENT = """\
import subprocess, sys
from broker_django.development import parent_watch
grace = float(sys.argv[1]) if sys.argv[1] else None
subprocess.run(parent_watch.command(sys.argv[2:], grace), start_new_session=True)
"""


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        parent_watch.command(argv), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def program_pid(process: subprocess.Popen[str]) -> int:
    return int(read_until(process, "program").split()[-1])


@pytest.mark.parametrize("grace", ["", "60"], ids=["alone", "watched"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_program_ends_with_its_parent(grace, number):
    with running(sys.executable, "-c", PARENT, grace, *PROGRAM) as process:
        pid = program_pid(process)
        process.send_signal(number)
        wait_until(lambda: is_gone(pid), 10)


def test_a_program_that_ignores_sigterm_is_killed_after_its_grace():
    with running(sys.executable, "-c", PARENT, "0.2", *STUBBORN) as process:
        pid = program_pid(process)
        process.kill()
        wait_until(lambda: is_gone(pid), 10)


def test_the_program_replaces_parent_watch():
    if sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    with running(*parent_watch.command(PROGRAM)) as process:
        assert program_pid(process) == process.pid


def test_a_program_without_a_parent_is_not_run():
    argv = [
        argument.replace(f"--parent={os.getpid()}", "--parent=999999999") for argument in parent_watch.command(PROGRAM)
    ]
    process = finished(argv)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    if sys.platform == "linux":
        assert process.stdout == ""


def test_the_exit_status_is_the_programs():
    argv = parent_watch.command([sys.executable, "-c", "raise SystemExit(7)"])
    assert finished(argv).returncode == 7


def test_it_runs_as_a_module():
    argv = [sys.executable, "-m", "broker_django.development.parent_watch", "--", "echo", "--parent", "-x"]
    assert finished(argv).stdout == "--parent -x\n"


def test_a_program_that_is_not_there_is_named():
    process = finished(parent_watch.command(["no-such-program"]))
    assert process.returncode == 127
    assert "no-such-program" in process.stderr


def test_the_watcher_passes_sigterm_on():
    with running(*parent_watch.command(PROGRAM, grace=60)) as process:
        pid = program_pid(process)
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
        assert is_gone(pid)


def test_the_program_does_not_outlive_a_killed_watcher():
    if sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    with running(*parent_watch.command(PROGRAM, grace=60)) as process:
        pid = program_pid(process)
        process.kill()
        wait_until(lambda: is_gone(pid), 10)
