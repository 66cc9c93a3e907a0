"""What tests with real processes share."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FIRST_STEP, LAST_STEP = 0.02, 0.2
"""Seconds between two polls, which also cost the awaited process time."""


def finished(
    argv: Sequence[str], env: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Returns the program after its end, with any status and its output."""
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=seconds, check=False)


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Poll until the condition holds, less and less often. Fails after these seconds."""
    deadline = time.monotonic() + seconds
    step = FIRST_STEP
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{getattr(condition, '__name__', condition)} did not come true in {seconds} s")
        time.sleep(step)
        step = min(step * 1.2, LAST_STEP)


def processes_in(directory: Path) -> list[psutil.Process]:
    """The living processes whose working directory is inside the given one."""
    inside = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(directory.resolve()):
                inside.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return inside


def kill_in(directory: Path) -> None:
    """Kill what `processes_in` finds, apart from what ends by itself meanwhile."""
    for process in processes_in(directory):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def command_lines_in(directory: Path) -> str:
    """One line for each process that `processes_in` finds."""
    lines = []
    for process in processes_in(directory):
        with suppress(psutil.NoSuchProcess):
            lines.append(" ".join(process.cmdline()))
    return "\n".join(lines)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Returns the output up to the line with the text. Fails if the process ends before."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} is missing in:\n{seen}")
