"""Command output that contains data from rows. Their authors must not control the operator's terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.management.base import BaseCommand

from broker_core.redaction import printable

if TYPE_CHECKING:
    from collections.abc import Callable


class EscapingCommand(BaseCommand):
    """A command that prints data from rows. `say` escapes control characters."""

    def say(self, line: str, style: Callable[[str], str] | None = None) -> None:
        self.stdout.write(printable(line), style)
