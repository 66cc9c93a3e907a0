"""A journal of what views did. It is outside the database, so a rollback does not change it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from django.http import HttpRequest

VARIABLE = "CHAOS_JOURNAL"
"""The environment variable with the name of the file."""


class Phase(StrEnum):
    ACCEPTED = "accepted"
    """A web process answered 202; `text` is its release."""
    BEGIN = "begin"
    """A view began; `text` is its release, or empty if it is the same in all releases."""
    COMMITTED = "committed"
    """The row that the view wrote is committed."""
    END = "end"
    """A view ended; `text` is the name of the exception that it raised, or empty if it returned."""
    FOUND = "found"
    """A view found something that an earlier one had left behind, which is `text`."""


@dataclass(frozen=True, slots=True)
class Line:
    phase: Phase
    dispatch: str
    attempt: int
    pid: int
    text: str = ""
    at: float = field(default_factory=time.time)


@cache
def _descriptor(path: str) -> int:
    """Opened for appending: Linux writes each line in one piece, even if other processes write to the file too."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def write(line: Line) -> None:
    os.write(_descriptor(os.environ[VARIABLE]), (json.dumps(asdict(line)) + "\n").encode())


def write_for(request: HttpRequest, phase: Phase, text: str = "") -> None:
    """Write a line about the dispatch whose replay this request is."""
    broker = request.broker
    write(Line(phase, str(broker.id or ""), broker.attempt, os.getpid(), text))


def read(path: Path) -> list[Line]:
    return [Line(**{**fields, "phase": Phase(fields["phase"])}) for fields in map(json.loads, path.open())]
