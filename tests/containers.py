"""Local processes with the interface of pytest-celery's containers, so that its nodes and clusters drive them."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker_django.development import parent_watch
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN = 90.0
STOPPED_WITHIN = 30.0


class Process:
    """One process in a session of its own, which ends with this one. Its output goes to a file, which `logs` reads.

    `ready_prompt` is text of the output, or a function that returns whether it serves.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        ready_prompt: str | Callable[[], Any] = "",
        stop_signal: signals.Signals = signals.SIGTERM,
        user: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.id = uuid.uuid4().hex
        command = [str(part) for part in argv]
        # Another user may not be able to read this interpreter.
        self.argv = command if user else parent_watch.command(command)
        self.env = {**os.environ, **(env or {})}
        self.ready_prompt = ready_prompt
        self.stop_signal = stop_signal
        self.user = user
        self.celeryconfig = config or {}
        self._log = tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".log")  # noqa: SIM115 - closed by teardown
        self.start()

    def start(self) -> None:
        self._popen = subprocess.Popen(
            self.argv,
            cwd="/" if self.user else ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def status(self) -> str:
        return "running" if self._popen.poll() is None else "exited"

    @property
    def exit_status(self) -> int | None:
        """Returns the exit status; None while it runs."""
        return self._popen.poll()

    def logs(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def ready(self) -> bool:
        """Wait until it serves. Raises RuntimeError with its output if it ended."""
        wait_until(self._serves, READY_WITHIN)
        return True

    def _serves(self) -> bool:
        if self.status != "running":
            raise RuntimeError(f"{self.name} ended with {self._popen.returncode}:\n{self.logs()}")
        if callable(self.ready_prompt):
            return bool(self.ready_prompt())
        return self.ready_prompt in self.logs()

    def signal(self, signal: str | int) -> None:
        self._popen.send_signal(getattr(signals, signal) if isinstance(signal, str) else signal)

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal that ends it, and wait for the end."""
        self.signal(signal)
        self._popen.wait(STOPPED_WITHIN)

    def kill_all(self) -> None:
        """Kill it with all that it started, at once, and wait for its end."""
        os.killpg(self.pid, signals.SIGKILL)
        self._popen.wait(STOPPED_WITHIN)

    def reload(self) -> None:
        """Does nothing: only a container must read its state again."""

    def restart(self, timeout: float = STOPPED_WITHIN) -> None:
        if self.status == "running":
            self.kill(self.stop_signal)
        self._log.truncate(0)
        self.start()
        self.ready()

    def teardown(self) -> None:
        """End it with all its children: first with SIGTERM."""
        try:
            if self.status == "running":
                self.kill(self.stop_signal)
        except subprocess.TimeoutExpired:
            self.kill("SIGKILL")
        finally:
            self._end_children()
            self._log.close()

    def _end_children(self) -> None:
        try:
            os.killpg(self.pid, signals.SIGKILL)
        except ProcessLookupError:
            return
