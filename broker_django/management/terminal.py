"""What commands write of rows: whoever may write those must not command the operator's terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.management.base import BaseCommand

from broker_core.redaction import printable

if TYPE_CHECKING:
    from collections.abc import Callable


class TellingCommand(BaseCommand):
    """A command that tells of rows, and so writes by `say` alone."""

    def say(self, line: str, style: Callable[[str], str] | None = None) -> None:
        self.stdout.write(printable(line), style)
