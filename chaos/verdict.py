"""Compares what happened (the ledger, the journal, rows and logs) with what the broker promises."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from broker_core.dispatches import State
from chaos.journal import Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from chaos.journal import Line

QUEUES = ("payment", "realtime", "bulk")
BRIEF = "brief"
"""A queue with a short time limit."""
AT_MOST_ONCE = frozenset({"realtime"})
NOT_REACHED = "the view was not reached"
"""The error of a dispatch whose view no worker knew."""

RECORDED_WITHIN = 20.0
"""Seconds in which a worker records how a view ended, even if the database fails meanwhile."""

ID = r"(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
LOSS = re.compile(rf"{ID}: .*(?:\blease\b.* ran out\b|\bprocess was lost\b)")
"""A log line about a lost lease or process, with the dispatch that it was running.

A lost message does not match: its dispatch was not running.
"""
RETRY = re.compile(rf"{ID} failed in attempt \d+ and is due\b")
"""A log line about a retry because the view failed."""

HAND_BACK = re.compile(rf"{ID} is handed back and is due\b")
"""A log line about an attempt whose worker did not know the view: the attempt ended before a view began."""


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
        """Seconds from acceptance to the end."""
        return (self.finished_at - self.accepted_at).total_seconds() if self.finished_at else None


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a view, from the journal. `ended` is None if it did not end, else the exception, if any.

    killed: whether its process was killed on purpose before it could record the outcome.
    """

    dispatch: str
    attempt: int
    pid: int
    release: str
    ended: str | None
    killed: bool

    @property
    def returned(self) -> bool:
        return self.ended == ""

    @property
    def raised(self) -> bool:
        return bool(self.ended)


@dataclass(frozen=True)
class Evidence:
    """What is left after a run, by dispatch id.

    accepted: the dispatches for which a client got a 202. journal: what web processes and views have recorded. killed:
    processes that were killed on purpose, and when. endings: how often the dispatch reached a final state. rows: the
    number of rows that the views wrote; uncommitted: the number of rows in transactions that a view left open. losses,
    retries, hand_backs: the number of such log lines.
    """

    accepted: Collection[str]
    ledger: Mapping[str, Entry]
    journal: Sequence[Line]
    killed: Mapping[int, float]
    endings: Mapping[str, int]
    rows: Mapping[str, int]
    losses: Mapping[str, int]
    retries: Mapping[str, int]
    hand_backs: Mapping[str, int] = field(default_factory=dict)
    uncommitted: int = 0

    @cached_property
    def executions(self) -> Mapping[str, Sequence[Execution]]:
        """The runs of each dispatch, in order."""
        ends = {(line.dispatch, line.attempt, line.pid): line for line in self._lines(Phase.END)}
        found = defaultdict(list)
        for begin in self._lines(Phase.BEGIN):
            end = ends.get((begin.dispatch, begin.attempt, begin.pid))
            killed_at, recorded_by = self.killed.get(begin.pid, math.inf), end.at + RECORDED_WITHIN if end else math.inf
            killed = begin.pid in self.killed and killed_at <= recorded_by
            ended = end.text if end else None
            found[begin.dispatch].append(Execution(begin.dispatch, begin.attempt, begin.pid, begin.text, ended, killed))
        return found

    @cached_property
    def committed(self) -> Counter[str]:
        return Counter(line.dispatch for line in self._lines(Phase.COMMITTED))

    @cached_property
    def releases(self) -> Mapping[str, str]:
        """The release of the web process that accepted each dispatch."""
        return {line.dispatch: line.text for line in self._lines(Phase.ACCEPTED)}

    @cached_property
    def leftovers(self) -> Mapping[str, Sequence[str]]:
        """What the view found that an earlier one had left behind."""
        found = defaultdict(list)
        for line in self._lines(Phase.FOUND):
            found[line.dispatch].append(line.text)
        return found

    def of(self, dispatch: str) -> Sequence[Execution]:
        return self.executions.get(dispatch, ())

    def _lines(self, phase: Phase) -> Iterable[Line]:
        return (line for line in self.journal if line.phase is phase)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Dispatch ids by outcome. All fields but `explained` are broken promises."""

    lost: list[str]
    """Accepted, but not in the ledger or not done."""
    not_ended_once: list[str]
    """Reached a final state more than once, or without the trigger seeing it."""
    unexplained: list[str]
    """Run more often than the log's losses and failures explain, or twice in one attempt."""
    run_too_often: list[str]
    """Run more than once on a queue with at-most-once delivery."""
    not_run: list[str]
    """Succeeded although no view returned."""
    failed_unrun: list[str]
    """Failed without a run, and neither a loss nor the error explains it."""
    discarded: list[str]
    """Counted as lost although the process lived, or failed although the view returned."""
    died: list[str]
    """The process ended during the view although nobody killed it."""
    other_code: list[str]
    """Run by a view of another release than the one that accepted it."""
    stray: list[str]
    """Run without a dispatch in the ledger."""
    not_kept: list[str]
    """The journal and the rows of the views disagree."""
    left_behind: list[str]
    """The view found what an earlier one had left behind."""
    committed_for_view: list[str]
    """Rows of a transaction were committed that a view had left open."""
    explained: list[str]
    """Run more than once, and each extra run is explained."""

    @property
    def broken(self) -> dict[str, list[str]]:
        """The promises that were broken, with the ids."""
        promises = {
            "lost": self.lost,
            "not ended exactly once": self.not_ended_once,
            "run twice, unexplained": self.unexplained,
            "run twice, at_most_once": self.run_too_often,
            "succeeded without a run": self.not_run,
            "failed without a run": self.failed_unrun,
            "outcome discarded": self.discarded,
            "process ended by a view": self.died,
            "run by other code": self.other_code,
            "run without a dispatch": self.stray,
            "rows and journal disagree": self.not_kept,
            "left behind by an earlier view": self.left_behind,
            "committed although left open": self.committed_for_view,
        }
        return {promise: ids for promise, ids in promises.items() if ids}

    @property
    def kept(self) -> bool:
        return not self.broken


def mentions(pattern: re.Pattern[str], log_lines: Iterable[str]) -> Counter[str]:
    """Counts the lines that match, by dispatch id."""
    return Counter(match["id"] for match in map(pattern.search, log_lines) if match)


def judge(evidence: Evidence, at_most_once: Collection[str] = AT_MOST_ONCE) -> Verdict:
    ledger = evidence.ledger
    entries = list(ledger.values())
    again = [entry for entry in entries if len(evidence.of(entry.id)) > 1]
    careless = [entry for entry in again if entry.queue not in at_most_once]
    explained = [entry.id for entry in careless if _is_explained(evidence, entry.id)]
    ran = evidence.executions
    return Verdict(
        lost=_lost(evidence),
        not_ended_once=[e.id for e in entries if evidence.endings.get(e.id, 0) != int(e.state.done)],
        unexplained=sorted({entry.id for entry in careless} - set(explained)),
        run_too_often=[entry.id for entry in again if entry.queue in at_most_once],
        not_run=[
            e.id for e in entries if e.state is State.SUCCEEDED and not any(x.returned for x in evidence.of(e.id))
        ],
        failed_unrun=[entry.id for entry in entries if _failed_unrun(evidence, entry)],
        discarded=[entry.id for entry in entries if _discarded(evidence, entry)],
        died=[id_ for id_ in ran if any(x.ended is None and not x.killed for x in evidence.of(id_))],
        other_code=[id_ for id_ in ran if _ran_other_code(evidence, id_)],
        stray=sorted(set(ran) - set(ledger)),
        not_kept=_not_kept(evidence),
        left_behind=sorted(evidence.leftovers),
        committed_for_view=[""] * evidence.uncommitted,
        explained=explained,
    )


def _lost(evidence: Evidence) -> list[str]:
    missing = sorted(set(evidence.accepted) - set(evidence.ledger))
    return missing + [entry.id for entry in evidence.ledger.values() if not entry.state.done]


def _is_explained(evidence: Evidence, id_: str) -> bool:
    """A logged retry only counts if a view did raise: the log may also contain retries whose outcome was discarded."""
    executions = evidence.of(id_)
    if len({execution.attempt for execution in executions}) < len(executions):
        return False
    failures = sum(execution.raised for execution in executions)
    retried = min(evidence.retries.get(id_, 0), failures)
    return len(executions) - 1 <= evidence.losses.get(id_, 0) + retried


def _failed_unrun(evidence: Evidence, entry: Entry) -> bool:
    if entry.state is not State.FAILED or evidence.of(entry.id):
        return False
    return not evidence.losses.get(entry.id) and NOT_REACHED not in entry.error


def _discarded(evidence: Evidence, entry: Entry) -> bool:
    """An attempt that is not in the journal was lost before its view began; any process may have been killed then."""
    lived = {execution.attempt: execution for execution in evidence.of(entry.id) if not execution.killed}
    ended = len(lived) + evidence.hand_backs.get(entry.id, 0)
    if evidence.losses.get(entry.id, 0) > max(0, entry.attempts - ended):
        return True
    last = lived.get(entry.attempts)
    return entry.state is State.FAILED and last is not None and last.returned


def _ran_other_code(evidence: Evidence, id_: str) -> bool:
    accepted_by = evidence.releases.get(id_)
    return accepted_by is not None and any(x.release not in {"", accepted_by} for x in evidence.of(id_))


def _not_kept(evidence: Evidence) -> list[str]:
    """Each row needs a run, and each committed row must exist."""
    ids = {*evidence.rows, *evidence.executions}
    rows, committed = evidence.rows, evidence.committed
    return sorted(id_ for id_ in ids if not committed[id_] <= rows.get(id_, 0) <= len(evidence.of(id_)))
