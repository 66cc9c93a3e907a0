"""Starting a process again when the project's code changes."""

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
"""Seconds between looks at the files."""


def supervise(command: Sequence[str]) -> int:
    """Run the command, and again whenever the project's code changes. Its exit status, once it ends well.

    When it ends with an error, as it does where the code cannot be read, the next change starts it again.
    SIGTERM and SIGINT are passed on, and end the supervision.
    """
    return _Supervision(command).run()


class _Supervision:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        # No threading.Event: its lock is not for signal handlers, which interrupt whoever holds it.
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
            _tell("Code has changed, the worker starts again.")
        return status

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stopped = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = process = subprocess.Popen(self._command)
        if self._stopped:  # the signal came before there was anything to pass it on to
            process.terminate()
        return process

    def _watch(self, process: subprocess.Popen[bytes], before: _Files) -> bool:
        """True once a file changes; False when the process ends well, or a signal has come."""
        told = False
        while not self._stopped:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INTERVAL)
            if process.returncode == 0:
                return False
            if process.returncode is not None:
                if not told and not self._stopped:
                    _tell(f"The worker ended with status {process.returncode}. It starts again when code changes.")
                told = True
                time.sleep(INTERVAL)
            if _snapshot(before) != before:
                return not self._stopped
        return False


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


_Files = dict[Path, float]


def _load_project() -> set[Path]:
    """Import what a worker will: its views and tasks. The files that an import failed in."""
    importlib.invalidate_caches()
    failed: set[Path] = set()
    for load in (_load_tasks, _load_views):
        try:
            load()
        except Exception as error:  # noqa: BLE001 - any code may be broken, and the worker will say how
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
    """When the files of this process's modules and the further ones were last changed."""
    found: _Files = {}
    for file in {*further, *iter_all_python_module_files(), *BaseReloader().watched_files(include_globs=False)}:
        with contextlib.suppress(OSError):
            found[file] = file.stat().st_mtime
    return found
