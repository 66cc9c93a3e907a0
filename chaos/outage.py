"""Stops the message broker under a steady load: how long clients wait for their 202, and whether all dispatches are
done once it is back. `python -m chaos.outage`.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from chaos import command
from chaos.faults import kill_server
from chaos.load import Load, Menu

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from chaos.installation import Installation
    from chaos.load import Answer

LIMIT = 2.0
"""The maximum number of seconds that a client may wait for its 202."""
AROUND = 10.0
"""Seconds of load before the outage and after it."""
AT_ONCE = 2_000
"""Clients that may wait at once: enough to keep the rate even if responses are slow."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("chaos.outage", __doc__, give_up_after=120)
    parser.add_argument("--seconds", type=float, default=60, help="how long the message broker is stopped")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--how", choices=tuple(STOPS), default="killed", help="killed: refuses; frozen: no answer")
    parser.set_defaults(workers=2)
    return command.run_installed(parser.parse_args(arguments), run)


def run(installation: Installation, options: argparse.Namespace) -> int:
    from chaos import report

    requests = int(options.rate * (options.seconds + 2 * AROUND))
    menu = Menu(random.Random(options.seed), long_share=0.0)
    load = Load(installation.urls, requests, options.rate, menu, AT_ONCE)
    load.start()
    stopped = stop_and_start(installation, load, options.seconds, options.how)
    while not load.done:
        time.sleep(0.1)
    duration = time.monotonic() - load.began
    drained_in = report.drain(installation, options.give_up_after)
    result = report.Result.of(installation, load, {}, duration, drained_in)
    phases = by_phase(load.answers, stopped)
    print("\n".join(f"{name:<7} {described(answers)}" for name, answers in phases.items()))
    print(result.text(), flush=True)
    failures = broken(load.answers, drained_in)
    print("\n" + ("; ".join(failures) or f"Every client got its 202 within {LIMIT:g} s, and all dispatches are done."))
    if options.json:
        figures = {name: summary(answers) for name, answers in phases.items()}
        options.json.write_text(
            json.dumps({"phases": figures, "broken": failures, **result.document()}, indent=2) + "\n"
        )
    return 0 if not failures and result.verdict.kept else 1


def stop_and_start(installation: Installation, load: Load, seconds: float, how: str) -> tuple[float, float]:
    """Returns when the message broker was stopped and when it was back, in seconds since the start of the load."""
    process = installation.broker.process
    stop, start = STOPS[how]
    time.sleep(AROUND)
    stopped = time.monotonic() - load.began
    print(f"{stopped:6.1f} s  {process.name} is {how}", flush=True)
    stop(installation)
    time.sleep(seconds)
    start(installation)
    back = time.monotonic() - load.began
    print(f"{back:6.1f} s  {process.name} is back", flush=True)
    return stopped, back


def _start(installation: Installation) -> None:
    installation.broker.process.start()
    installation.broker.process.ready()


def _family(installation: Installation) -> list[psutil.Process]:
    first = psutil.Process(installation.broker.process.pid)
    return [first, *first.children(recursive=True)]


def _freeze(installation: Installation) -> None:
    for process in _family(installation):
        process.suspend()


def _thaw(installation: Installation) -> None:
    for process in _family(installation):
        process.resume()


STOPS = {"killed": (kill_server, _start), "frozen": (_freeze, _thaw)}


def by_phase(answers: Sequence[Answer], stopped: tuple[float, float]) -> dict[str, list[Answer]]:
    """Groups the answers by when their requests were sent."""
    begin, end = stopped
    return {
        "before": [answer for answer in answers if answer.at < begin],
        "during": [answer for answer in answers if begin <= answer.at < end],
        "after": [answer for answer in answers if answer.at >= end],
    }


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    seconds = sorted(answer.seconds for answer in answers)
    return {
        "sent": len(answers),
        "accepted": sum(answer.status == 202 for answer in answers),
        "median": percentile(seconds, 0.5),
        "p99": percentile(seconds, 0.99),
        "max": percentile(seconds, 1.0),
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the smallest value that this share of the values does not exceed; 0 if there are no values."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else 0.0


def described(answers: Sequence[Answer]) -> str:
    figures = summary(answers)
    times = ", ".join(f"{name} {figures[name] * 1000:,.0f} ms" for name in ("median", "p99", "max"))
    return f"{figures['accepted']} of {figures['sent']} accepted; {times}"


def broken(answers: Sequence[Answer], drained_in: float | None) -> list[str]:
    """Returns the promises that were broken."""
    slow = sum(answer.seconds > LIMIT for answer in answers)
    refused = sum(answer.status != 202 for answer in answers)
    found = {
        f"{slow} requests took longer than {LIMIT:g} s": slow,
        f"{refused} requests were not accepted": refused,
        "some dispatches were left": drained_in is None,
        "there was no load": not answers,
    }
    return [promise for promise, is_broken in found.items() if is_broken]


if __name__ == "__main__":
    sys.exit(main())
