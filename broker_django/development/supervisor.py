"""Runs several programs as one: they start together and stop together."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_django.development import parent_watch

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    Write = Callable[[str, str], None]  # the name of a program and a line of its output

READ_BYTES = 65536
POLL_SECONDS = 0.5
LAST_WORDS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Program:
    """A program: its name, its command line, and the seconds between SIGTERM and SIGKILL."""

    name: str
    argv: Sequence[str]
    grace: float = 5.0


class Supervisor:
    """Starts programs, copies their output, and stops all of them when one ends or a signal arrives.

    SIGTERM, SIGHUP and Ctrl-C stop the programs one after another, last started first. A second Ctrl-C kills them. Each
    program watches this process and leads its own session: Ctrl-C only reaches this process, and a program's children
    end with its process group. If this process is killed, the programs stop too.
    """

    def __init__(self, programs: Sequence[Program], environment: Mapping[str, str], write: Write) -> None:
        self._programs = programs
        self._environment = environment
        self._write = write
        self._children: list[_Child] = []
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()

    async def run(self, announce: Coroutine[None, None, None], watched: Mapping[str, subprocess.Popen[bytes]]) -> int:
        """Run until a program or one of the ``watched`` processes ends, or a signal arrives.

        ``announce`` runs beside them. Returns the exit status of the first that ended, or 0 after a signal.
        """
        self._listen()
        announcing = asyncio.create_task(announce)
        try:
            for program in self._programs:
                self._children.append(await _Child.start(program, self._environment, self._write))
            return await self._first_end(watched)
        finally:
            announcing.cancel()
            await self._stop_all()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._stop.set)

    def _interrupt(self) -> None:
        (self._kill if self._stop.is_set() else self._stop).set()

    async def _first_end(self, watched: Mapping[str, subprocess.Popen[bytes]]) -> int:
        endings = {asyncio.create_task(child.process.wait()): child.name for child in self._children}
        endings |= {asyncio.create_task(_ended(process)): name for name, process in watched.items()}
        stop = asyncio.create_task(self._stop.wait())
        done, pending = await asyncio.wait({*endings, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if stop in done:
            return 0
        self._stop.set()
        first = next(task for task in endings if task in done)
        status = parent_watch.exit_status(first.result())
        self._write("", f"{endings[first]} ended with status {status}: stopping the others.")
        return status

    async def _stop_all(self) -> None:
        for child in reversed(self._children):
            await child.stop(self._kill)


class _Child:
    def __init__(self, program: Program, process: asyncio.subprocess.Process, write: Write) -> None:
        self.name = program.name
        self.process = process
        self._grace = program.grace
        self._write = write
        self._copying = asyncio.create_task(self._copy_output())

    @classmethod
    async def start(cls, program: Program, environment: Mapping[str, str], write: Write) -> _Child:
        process = await asyncio.create_subprocess_exec(
            *parent_watch.command(program.argv, program.grace),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        return cls(program, process, write)

    async def stop(self, kill: asyncio.Event) -> None:
        """Send SIGTERM to the program; once it ended, is late, or ``kill`` is set, send SIGKILL to its whole group."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        waits = [asyncio.create_task(self.process.wait()), asyncio.create_task(kill.wait())]
        _, pending = await asyncio.wait(waits, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        self._kill_group()
        await self.process.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._copying, LAST_WORDS_SECONDS)

    def _kill_group(self) -> None:
        # macOS returns EPERM for a group that only contains zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def _copy_output(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - for mypy; it is a pipe
        rest = b""
        while chunk := await self.process.stdout.read(READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._write(self.name, line.decode(errors="replace"))
        if rest:
            self._write(self.name, rest.decode(errors="replace"))


async def _ended(process: subprocess.Popen[bytes]) -> int:
    while (status := process.poll()) is None:  # noqa: ASYNC110 - Popen has no event to wait for
        await asyncio.sleep(POLL_SECONDS)
    return status
