"""Requests while everything around them fails, and what became of each: `python -m chaos`."""

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
"""Seconds between a fault that was put right and the next."""
ROLL_EVERY = (2.0, 5.0)
LONGEST_HESITATION = 30.0
"""Seconds after which a dispatch has been tried again that the last worker handed back."""


def main(arguments: Sequence[str] | None = None) -> int:
    made = command.parser("chaos", __doc__, settle=180)
    made.add_argument("--requests", type=int, default=8_000)
    made.add_argument("--seconds", type=float, default=95, help="over which the requests are spread, at least")
    return command.run_installed(made.parse_args(arguments), run)


def run(installation: Installation, options: argparse.Namespace) -> int:
    from chaos import poison, report

    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}, {options.broker}, {options.database}", flush=True)
    menu = Menu(random.Random(seed), poisons=poison.names(installation.vendor, installation.pool))
    load = Load(installation.urls, options.requests, options.requests / options.seconds, menu, AT_ONCE)
    load.start()
    faults = torment(installation, load, random.Random(seed))
    took = time.monotonic() - load.began
    mend(installation)
    settled = settle(installation, options.settle)
    result = report.Result.of(installation, load, faults, took, settled)
    print(result.text(), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result.document(), indent=2) + "\n")
    return 0 if result.verdict.kept else 1


def torment(installation: Installation, load: Load, chance: random.Random) -> dict[str, int]:
    """Let faults happen until the load ends: how often each did."""

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
                if service.look_after():
                    say(f"{service.name} had ended by itself with status {service.ended[-1]}")
            time.sleep(0.05)
    finally:
        for track in tracks:
            track.put_right()
    return {name: times for track in tracks for name, times in track.done.items()}


def mend(installation: Installation) -> None:
    """Wait until all is up."""
    installation.broker.process.ready()
    wait_until(installation.is_up)


def settle(installation: Installation, seconds: float) -> float | None:
    """Go back to the old release until nothing waits for that, and then on to the new one, which ends the rest: how
    long that took, None if not all has ended.
    """
    from chaos import report

    old, new = RELEASES
    began = time.monotonic()
    installation.deploy(old)
    report.settle(installation, min(seconds, LONGEST_HESITATION), but=report.waiting_for(new, installation.account()))
    installation.deploy(new)
    rest = report.settle(installation, seconds)
    return None if rest is None else time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
