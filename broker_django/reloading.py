"""Starting a process again when the project's code changes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from django.utils.autoreload import BaseReloader, iter_all_python_module_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import FrameType

INTERVAL = 1.0
"""Seconds between looks at the files."""


def supervise(command: Sequence[str]) -> int:
    """Run the command, and again whenever a module of this process changes. Its exit status, once it ends by itself.

    SIGTERM and SIGINT are passed on, and end the supervision.
    """
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stop.set()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    process = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    before = _snapshot()
    while process.poll() is None and not stop.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(INTERVAL)
        now = _snapshot()
        if now != before and process.poll() is None and not stop.is_set():
            sys.stderr.write("Code has changed, the worker starts again.\n")
            process.terminate()
            process.wait()
            process = subprocess.Popen(command)
            before = now
    return process.wait()


def _snapshot() -> dict[Path, float]:
    files = [*iter_all_python_module_files(), *BaseReloader().watched_files(include_globs=False)]
    found: dict[Path, float] = {}
    for file in files:
        with contextlib.suppress(OSError):
            found[file] = file.stat().st_mtime
    return found
