"""Tie the life of a program to the life of the process that starts it.

    python -m broker_django.development.parent_watch [--parent PID] [--grace SECONDS] -- PROGRAM [ARGUMENTS...]

The program gets SIGTERM when its parent is gone, however the parent went. On Linux the kernel sees to that, and
nothing stays beside the program. With ``--grace`` a watcher stays, and kills what is left after so many seconds.
This file uses the standard library alone and is run as a plain script, so that it starts quickly.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_SECONDS = 0.25
EXIT_NOT_FOUND = 127  # what a shell answers for a program that is not there


def command(argv: Sequence[str], grace: float | None = None) -> list[str]:
    """The command line that runs ``argv`` tied to the calling process.

    ``grace``: seconds between SIGTERM and SIGKILL once the parent is gone; by default there is no SIGKILL.

    Linux ties a process to the *thread* that started it: start it from a thread that lives as long as it should.
    """
    patience = [] if grace is None else [f"--grace={grace}"]
    return [sys.executable, "-IS", __file__, f"--parent={os.getpid()}", *patience, "--", *argv]


def tie(parent: int) -> None:
    """Send SIGTERM to the calling process when ``parent``, its parent, is gone."""
    if sys.platform == "linux":
        _request_death_signal()
        if os.getppid() != parent:  # it went before the kernel was asked
            os.kill(os.getpid(), signal.SIGTERM)
    else:
        threading.Thread(target=_terminate_when_gone, args=[parent], daemon=True).start()


def run(argv: Sequence[str], parent: int) -> NoReturn:
    """Become ``argv``, tied to ``parent`` by the kernel where it can, else start it and stay to watch."""
    if sys.platform != "linux":
        sys.exit(watch(argv, parent))
    tie(parent)
    # Python ignores SIGPIPE, and what is ignored stays ignored in the next program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(argv[0], list(argv))  # noqa: S606


def watch(argv: Sequence[str], parent: int, grace: float | None = None) -> int:
    """Run ``argv``, pass signals on, and stop it when ``parent`` is gone. Returns its exit status."""
    # The kernel, where it can, ends the program if the watcher itself is killed.
    program = subprocess.Popen(command(argv) if sys.platform == "linux" else argv, close_fds=False)

    def forward(number: int, _frame: FrameType | None) -> None:
        program.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    while os.getppid() == parent:
        try:
            return exit_status(program.wait(POLL_SECONDS))
        except subprocess.TimeoutExpired:
            continue
    program.terminate()
    try:
        return exit_status(program.wait(grace))
    except subprocess.TimeoutExpired:
        _kill_group(program)
        return exit_status(program.wait())


def exit_status(returncode: int) -> int:
    """The shell's number for a return code of `subprocess`, where a negative one names a signal."""
    return returncode if returncode >= 0 else 128 - returncode


def _request_death_signal() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _kill_group(program: subprocess.Popen[bytes]) -> None:
    """Kill the program and, when this process leads their group, all of it, this process included."""
    program.kill()
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _terminate_when_gone(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> NoReturn:
    parser = argparse.ArgumentParser(
        prog="broker_django.development.parent_watch", description="Run a program that ends with its parent."
    )
    parser.add_argument("--parent", type=int, default=os.getppid(), help="the process to watch")
    parser.add_argument("--grace", type=float, help="seconds between SIGTERM and SIGKILL (no SIGKILL)")
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()
    try:
        if options.grace is not None:
            sys.exit(watch(options.program, options.parent, options.grace))
        run(options.program, options.parent)
    except (FileNotFoundError, PermissionError) as error:
        print(f"{options.program[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_NOT_FOUND)


if __name__ == "__main__":
    main()
