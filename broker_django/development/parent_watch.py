"""Ends a program when the process that started it ends.

    python -m broker_django.development.parent_watch [--parent PID] [--grace SECONDS] -- PROGRAM [ARGUMENTS...]

The program gets SIGTERM when its parent has ended. On Linux the kernel does that, and no other
process is needed. With ``--grace`` a watcher process stays, and kills remaining processes after that time. This file
only uses the standard library and runs as a plain script, so that it starts quickly.
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
EXIT_NOT_FOUND = 127  # a shell's exit status if a program does not exist


def command(argv: Sequence[str], grace: float | None = None) -> list[str]:
    """Returns the command line that runs ``argv`` and ends it with the calling process.

    ``grace``: seconds between SIGTERM and SIGKILL once the parent is gone; by default there is no SIGKILL.

    On Linux, the program ends with the *thread* that started it: use a thread that lives as long as the program should.
    """
    patience = [] if grace is None else [f"--grace={grace}"]
    return [sys.executable, "-IS", __file__, f"--parent={os.getpid()}", *patience, "--", *argv]


def tie(parent: int) -> None:
    """Send SIGTERM to the calling process when its parent, ``parent``, is gone."""
    if sys.platform == "linux":
        _request_death_signal()
        if os.getppid() != parent:  # it was gone before prctl was called
            os.kill(os.getpid(), signal.SIGTERM)
    else:
        threading.Thread(target=_terminate_when_gone, args=[parent], daemon=True).start()


def run(argv: Sequence[str], parent: int) -> NoReturn:
    """Replace this process by ``argv`` if the kernel can watch ``parent``; otherwise start ``argv`` and watch it."""
    if sys.platform != "linux":
        sys.exit(watch(argv, parent))
    tie(parent)
    # Python ignores SIGPIPE, and the next program would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(argv[0], list(argv))  # noqa: S606 - running a program is the purpose; no shell is used


def watch(argv: Sequence[str], parent: int, grace: float | None = None) -> int:
    """Run ``argv``, pass signals on, and stop it when ``parent`` is gone. Returns its exit status."""
    # On Linux, the kernel ends the program if the watcher itself is killed.
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
    """Returns a shell's exit status for a return code of `subprocess`, which is negative after a signal."""
    return returncode if returncode >= 0 else 128 - returncode


def _request_death_signal() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _kill_group(program: subprocess.Popen[bytes]) -> None:
    """Kill the program; if this process leads their group, kill the whole group, including this process."""
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
