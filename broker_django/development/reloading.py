"""Restarts a process when the project's code changes."""

from __future__ import annotations

import contextlib
import importlib
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.utils.autoreload import BaseReloader, iter_all_python_module_files

from broker_django.messaging.celery_app import get_app

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import FrameType

INTERVAL = 1.0
"""Seconds between two checks of the files."""


def supervise(command: Sequence[str]) -> int:
    """Run the command, and restart it when the project's code changes. Returns its exit status once it exits with 0.

    If it exits with an error, for example a syntax error, the next change restarts it. SIGTERM and SIGINT are passed
    on, and end the supervision.
    """
    return _Supervision(command).run()


class _Supervision:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        # Not a threading.Event: a signal handler may interrupt the code that has acquired its lock.
        self._stopped = False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        status = 0
        while not self._stopped:
            before = _snapshot(_load_project())
            process = self._start()
            changed = self._watch(process, before)
            if changed and process.poll() is None:
                process.terminate()
            status = process.wait()
            if not changed:
                break
            _print("Code has changed, the worker restarts.")
        return status

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stopped = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = process = subprocess.Popen(self._command)
        if self._stopped:  # the signal arrived before the process existed
            process.terminate()
        return process

    def _watch(self, process: subprocess.Popen[bytes], before: _Files) -> bool:
        """Returns True once a file changes; False if the process exits with 0, or after a signal."""
        reported = False
        while not self._stopped:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INTERVAL)
            if process.returncode == 0:
                return False
            if process.returncode is not None:
                if not reported and not self._stopped:
                    _print(f"The worker ended with status {process.returncode}. It restarts when code changes.")
                reported = True
                time.sleep(INTERVAL)
            if _snapshot(before) != before:
                return not self._stopped
        return False


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


_Files = dict[Path, float]


def _load_project() -> set[Path]:
    """Import what a worker imports: its views and tasks. Returns the files in which an import failed."""
    importlib.invalidate_caches()
    failed: set[Path] = set()
    for load in (_load_tasks, _load_views):
        try:
            load()
        except Exception as error:  # noqa: BLE001 - any code may be broken; the worker reports the error
            failed.update(_files_of(error))
    return failed


def _load_tasks() -> None:
    get_app().loader.import_default_modules()


def _load_views() -> None:
    importlib.import_module(settings.ROOT_URLCONF)


def _files_of(error: Exception) -> set[Path]:
    names = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    if isinstance(error, SyntaxError) and error.filename:
        names.add(error.filename)
    return {Path(name) for name in names if not name.startswith("<")}


def _snapshot(further: Iterable[Path]) -> _Files:
    """Returns the modification times of this process's modules and of `further` files."""
    found: _Files = {}
    for file in {*further, *iter_all_python_module_files(), *BaseReloader().watched_files(include_globs=False)}:
        with contextlib.suppress(OSError):
            found[file] = file.stat().st_mtime
    return found
