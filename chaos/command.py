"""The options that the commands of this package share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.installation import Installation, install, missing

if TYPE_CHECKING:
    from collections.abc import Callable


def parser(module: str, description: str | None, give_up_after: float) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    result.add_argument("--broker", choices=("valkey", "redis", "rabbitmq"), default="valkey")
    result.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    result.add_argument("--webs", type=int, default=2, help="web processes, alternately under ASGI and WSGI")
    result.add_argument("--workers", type=int, default=3)
    result.add_argument("--pool", choices=("prefork", "threads"), default="prefork", help="the pool of the workers")
    result.add_argument(
        "--seed", type=int, help="the seed of random choices; it is printed, so that a run can be repeated"
    )
    result.add_argument(
        "--give-up-after",
        type=float,
        default=give_up_after,
        metavar="SECONDS",
        help="count the remaining dispatches as lost if none ends for this long",
    )
    result.add_argument("--json", type=Path, help="a file for the result")
    result.add_argument("--logs", type=Path, help="a directory for the logs of web and worker processes")
    return result


def run_installed(options: argparse.Namespace, run: Callable[[Installation, argparse.Namespace], int]) -> int:
    """Start servers, web processes and workers as the options say, and call `run`. Returns 2 if a server is missing."""
    absent = missing(options.broker, options.database)
    if absent:
        print(f"Not installed: {', '.join(absent)}", file=sys.stderr)
        return 2
    counts = {"webs": options.webs, "workers": options.workers}
    with install(options.broker, options.database, **counts, pool=options.pool) as installation:
        status = run(installation, options)
        if options.logs:
            installation.keep_logs(options.logs)
        return status
