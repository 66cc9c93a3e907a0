"""Check everything that a dispatch needs."""

from __future__ import annotations

import sys
from typing import Any

from broker_core.redaction import printable
from broker_django.management.terminal import EscapingCommand
from broker_django.operations.doctor import examine


class Command(EscapingCommand):
    help = "Checks ledger, message broker, result store, workers and clocks. The exit status is 1 if anything is wrong."

    def handle(self, *_args: Any, **_options: Any) -> None:
        wrong, given = 0, set[str]()
        for finding in examine():
            mark = self.style.SUCCESS("ok  ") if finding.well else self.style.ERROR("FAIL")
            self.stdout.write(
                f"{mark} {printable(f'{finding.subject}: {finding.detail}')}"
            )  # not `say`: the mark contains colour codes
            if finding.advice and finding.advice not in given:
                given.add(finding.advice)
                self.say(f"     {finding.advice}")
            wrong += not finding.well
        if wrong:
            self.stderr.write(self.style.ERROR(f"{wrong} of the above need attention."))
            sys.exit(1)
        self.stdout.write(self.style.SUCCESS("Everything is well."))
