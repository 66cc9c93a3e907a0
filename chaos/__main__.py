"""Sends requests while servers and processes fail, and checks what became of each: `python -m chaos`."""

from __future__ import annotations

import json
import random
import sys
import time
from typing import TYPE_CHECKING

from chaos import command
from chaos.faults import OTHERS, Rollout, Track, WorkerKilled
from chaos.installation import RELEASES
from chaos.load import Load, Menu
from tests.processes import wait_until

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from chaos.installation import Installation

AT_ONCE = 32
KILL_EVERY = (2.0, 4.0)
PAUSE = (1.5, 4.0)
"""Seconds between the end of a fault and the next one."""
ROLL_EVERY = (2.0, 5.0)
LONGEST_HESITATION = 30.0
"""Seconds after which a dispatch is tried again that the last worker handed back."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("chaos", __doc__, give_up_after=180)
    parser.add_argument("--requests", type=int, default=8_000)
    parser.add_argument("--seconds", type=float, default=95, help="the minimum duration of the load")
    return command.run_installed(parser.parse_args(arguments), run)


def run(installation: Installation, options: argparse.Namespace) -> int:
    from chaos import poison, report

    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}, {options.broker}, {options.database}", flush=True)
    menu = Menu(random.Random(seed), poisons=poison.names(installation.vendor, installation.pool))
    load = Load(installation.urls, options.requests, options.requests / options.seconds, menu, AT_ONCE)
    load.start()
    faults = run_faults(installation, load, random.Random(seed))
    duration = time.monotonic() - load.began
    wait_until_up(installation)
    drained_in = drain(installation, options.give_up_after)
    result = report.Result.of(installation, load, faults, duration, drained_in)
    print(result.text(), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result.document(), indent=2) + "\n")
    return 0 if result.verdict.kept else 1


def run_faults(installation: Installation, load: Load, chance: random.Random) -> dict[str, int]:
    """Cause faults until the load ends. Returns how often each kind occurred."""

    def say(text: str) -> None:
        print(f"{time.monotonic() - load.began:6.1f} s  {text}", flush=True)

    tracks = [
        Track([WorkerKilled(installation, chance)], KILL_EVERY, chance, say),
        Track([Rollout(installation, chance)], ROLL_EVERY, chance, say),
        Track([kind(installation, chance) for kind in OTHERS], PAUSE, chance, say),
    ]
    try:
        while not load.done:
            for track in tracks:
                track.tick()
            for service in installation.services:
                if service.supervise():
                    say(f"{service.name} has ended by itself with status {service.ended[-1]}")
            time.sleep(0.05)
    finally:
        for track in tracks:
            track.undo_current()
    return {name: times for track in tracks for name, times in track.done.items()}


def wait_until_up(installation: Installation) -> None:
    """Wait until the message broker and all processes are up."""
    installation.broker.process.ready()
    wait_until(installation.is_up)


def drain(installation: Installation, seconds: float) -> float | None:
    """Run the old release until it has nothing left to run, then the new one, which runs the rest.

    Returns how long that took, or None if dispatches are left.
    """
    from chaos import report

    old, new = RELEASES
    began = time.monotonic()
    installation.deploy(old)
    report.drain(
        installation, min(seconds, LONGEST_HESITATION), but=report.waiting_for(new, installation.read_journal())
    )
    installation.deploy(new)
    rest = report.drain(installation, seconds)
    return None if rest is None else time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
