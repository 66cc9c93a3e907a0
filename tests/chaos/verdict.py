"""What a run came to: the ledger, the rows that views wrote and the logs, against what was promised."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_core.dispatches import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

QUEUES = ("payment", "realtime", "bulk")
AT_MOST_ONCE = frozenset({"realtime"})

ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
LOSS = re.compile(rf"(?P<id>{ID}): .*(?:\blease\b.* ran out\b|\bprocess was lost\b)")
"""A line of a log that tells of a lost lease or process, with the dispatch that it held.

That a message was lost is no such line: it had not been run.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger."""

    id: str
    queue: str
    state: State
    attempts: int
    accepted_at: datetime
    finished_at: datetime | None = None
    error: str = ""
    worker: str = ""

    @property
    def seconds(self) -> float | None:
        """From acceptance to the end."""
        return (self.finished_at - self.accepted_at).total_seconds() if self.finished_at else None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is left after a run, by dispatch id.

    accepted: those that a client holds a 202 of. executions: how often the view began. endings: how often the dispatch
    came to an end. explanations: how often a log tells of a loss.
    """

    accepted: Collection[str]
    ledger: Mapping[str, Entry]
    executions: Mapping[str, int]
    endings: Mapping[str, int]
    explanations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Ids by what became of them. All but `explained` break a promise."""

    lost: list[str]
    """Accepted and not in the ledger, or without an end."""
    not_ended_once: list[str]
    """Brought to an end more than once, or to one that nobody saw."""
    unexplained: list[str]
    """Run more often than losses in the log explain."""
    run_too_often: list[str]
    """Run more than once on a queue that promises once at most."""
    not_run: list[str]
    """Succeeded without having been run."""
    stray: list[str]
    """Run without a dispatch in the ledger."""
    explained: list[str]
    """Run more than once, and each time more is explained."""

    @property
    def broken(self) -> dict[str, list[str]]:
        """The promises that were broken."""
        promises = {
            "lost": self.lost,
            "not ended exactly once": self.not_ended_once,
            "run twice, unexplained": self.unexplained,
            "run twice, at_most_once": self.run_too_often,
            "succeeded without a run": self.not_run,
            "run without a dispatch": self.stray,
        }
        return {promise: ids for promise, ids in promises.items() if ids}

    @property
    def kept(self) -> bool:
        return not self.broken


def explanations(log_lines: Iterable[str]) -> Counter[str]:
    """How many lines tell that a dispatch lost its lease or its process."""
    return Counter(match["id"] for match in map(LOSS.search, log_lines) if match)


def judge(evidence: Evidence, at_most_once: Collection[str] = AT_MOST_ONCE) -> Verdict:
    ledger, runs = evidence.ledger, evidence.executions
    again = [entry for entry in ledger.values() if runs.get(entry.id, 0) > 1]
    careless = [entry.id for entry in again if entry.queue not in at_most_once]
    explained = [id_ for id_ in careless if runs[id_] - 1 <= evidence.explanations.get(id_, 0)]
    return Verdict(
        lost=_lost(evidence),
        not_ended_once=[e.id for e in ledger.values() if evidence.endings.get(e.id, 0) != int(e.state.done)],
        unexplained=sorted(set(careless) - set(explained)),
        run_too_often=[entry.id for entry in again if entry.queue in at_most_once],
        not_run=[e.id for e in ledger.values() if e.state is State.SUCCEEDED and not runs.get(e.id)],
        stray=sorted(set(runs) - set(ledger)),
        explained=explained,
    )


def _lost(evidence: Evidence) -> list[str]:
    missing = sorted(set(evidence.accepted) - set(evidence.ledger))
    return missing + [entry.id for entry in evidence.ledger.values() if not entry.state.done]
