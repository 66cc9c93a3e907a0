"""The result of a run, from the ledger, the rows of the views, the logs and the responses."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import connections

from broker_core.dispatches import State
from broker_django.models import DispatchRecord
from chaos.journal import Phase
from chaos.poison import LEFT_OPEN
from chaos.site.models import Ending
from chaos.verdict import HAND_BACK, LOSS, RETRY, Entry, Evidence, Verdict, judge, mentions
from tests.site.models import Execution

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from chaos.installation import Installation
    from chaos.journal import Line
    from chaos.load import Answer, Load
    from chaos.verdict import Execution as RunOfView

UNDONE = [state.value for state in State if not state.done]
SHOWN = 10
"""The number of dispatches that are shown in full for each broken promise."""
LINES = 6


def drain(installation: Installation, seconds: float, but: Collection[str] = ()) -> float | None:
    """Wait until every dispatch except these has ended.

    Returns how long that took, or None if no dispatch ended for this many seconds.
    """
    began = time.monotonic()
    fewest, since = None, began
    try:
        while time.monotonic() - since < seconds:
            for service in installation.services:
                service.supervise()
            undone = DispatchRecord.objects.filter(state__in=UNDONE).values_list("id", flat=True)
            left = len({str(id_) for id_ in undone} - set(but))
            if not left:
                return time.monotonic() - began
            if fewest is None or left < fewest:
                fewest, since = left, time.monotonic()
            time.sleep(0.5)
        return None
    finally:
        connections.close_all()


def waiting_for(release: str, journal: Iterable[Line]) -> set[str]:
    """Returns the unfinished dispatches that only this release can run."""
    accepted = {line.dispatch for line in journal if line.phase is Phase.ACCEPTED and line.text == release}
    undone = DispatchRecord.objects.filter(state__in=UNDONE)
    paths = [*undone.filter(path__startswith="/moved/"), *undone.filter(path__startswith=f"/{release}/")]
    connections.close_all()
    return accepted & {str(record.pk) for record in paths}


def evidence(answers: Iterable[Answer], installation: Installation, logs: Mapping[str, Sequence[str]]) -> Evidence:
    fields = ("queue", "state", "attempts", "accepted_at", "finished_at", "error", "worker")
    ledger = {
        str(id_): Entry(str(id_), queue, State(state), *rest)
        for id_, queue, state, *rest in DispatchRecord.objects.values_list("id", *fields)
    }
    lines = [line for lines in logs.values() for line in lines]
    return Evidence(
        accepted=[answer.dispatch for answer in answers if answer.dispatch],
        ledger=ledger,
        journal=installation.read_journal(),
        killed=installation.killed,
        endings=Counter(str(uuid.UUID(id_)) for id_ in Ending.objects.values_list("dispatch", flat=True)),
        rows=Counter(Execution.objects.exclude(worker=LEFT_OPEN).values_list("dispatch", flat=True)),
        losses=mentions(LOSS, lines),
        retries=mentions(RETRY, lines),
        hand_backs=mentions(HAND_BACK, lines),
        uncommitted=Execution.objects.filter(worker=LEFT_OPEN).count(),
    )


@dataclass(frozen=True, slots=True)
class Result:
    """A run and its verdict. `drained_in` is None if dispatches were left."""

    answers: Sequence[Answer]
    faults: Mapping[str, int]
    ended: Mapping[str, Sequence[int | None]]
    duration: float
    drained_in: float | None
    evidence: Evidence
    verdict: Verdict
    logs: Mapping[str, Sequence[str]]

    @classmethod
    def of(
        cls,
        installation: Installation,
        load: Load,
        faults: Mapping[str, int],
        duration: float,
        drained_in: float | None,
    ) -> Result:
        logs = installation.logs()
        found = evidence(load.answers, installation, logs)
        ended = {service.name: service.ended for service in installation.services if service.ended}
        return cls(load.answers, faults, ended, duration, drained_in, found, judge(found), logs)

    def table(self) -> dict[str, Any]:
        states = Counter(entry.state for entry in self.evidence.ledger.values())
        statuses = Counter(answer.status for answer in self.answers)
        recoveries = [entry.seconds for entry in self.evidence.ledger.values() if entry.seconds is not None]
        verdict = self.verdict
        return {
            "sent": len(self.answers),
            "accepted": statuses[202],
            "refused": sum(times for status, times in statuses.items() if status not in {202, None}),
            "unanswered": statuses[None],
            "in the ledger": len(self.evidence.ledger),
            **{state.value: states[state] for state in State if state.done},
            "views begun": sum(map(len, self.evidence.executions.values())),
            "lost": len(verdict.lost),
            "run twice (explained)": len(verdict.explained),
            "run twice (unexplained)": len(verdict.unexplained) + len(verdict.run_too_often),
            "found what another left": len(verdict.left_behind),
            "slowest recovery": f"{max(recoveries, default=0.0):.1f} s",
            "slowest answer": f"{max((answer.seconds for answer in self.answers), default=0.0):.1f} s",
        }

    def document(self) -> dict[str, Any]:
        return {
            **self.table(),
            "seconds": self.duration,
            "drained in": self.drained_in,
            "faults": dict(self.faults),
            "crashes": self._crashes(),
            "ended by themselves": {name: list(statuses) for name, statuses in self.ended.items()},
            "refusals": self._refusals(),
            "failures": self._failures(),
            "left behind": self._left_behind(),
            "broken": self.verdict.broken,
            "kept": self.verdict.kept,
        }

    def _crashes(self) -> dict[str, int]:
        """Counts the errors that ended workers."""
        crash = "Unrecoverable error: "
        return Counter(line.partition(crash)[2] for lines in self.logs.values() for line in lines if crash in line)

    def _refusals(self) -> dict[str, int]:
        return Counter(str(answer.status or answer.error) for answer in self.answers if answer.status != 202)

    def _failures(self) -> dict[str, int]:
        failed = (entry for entry in self.evidence.ledger.values() if entry.state is State.FAILED)
        return Counter(f"{entry.queue}: {entry.error}" for entry in failed)

    def _left_behind(self) -> dict[str, int]:
        return Counter(text for texts in self.evidence.leftovers.values() for text in texts)

    def text(self) -> str:
        width = max(map(len, self.table()))
        lines = ["", *(f"{name:<{width}}  {value:>8}" for name, value in self.table().items()), ""]
        drained = "dispatches were left" if self.drained_in is None else f"all were done after {self.drained_in:.1f} s"
        lines.append(f"{self.duration:.0f} s of load; {drained}")
        lines.append("faults: " + _counts(self.faults))
        lines += [f"{name} ended by itself, with {statuses}" for name, statuses in self.ended.items()]
        lines += [f"a worker's unrecoverable error, {times} times: {what}" for what, times in self._crashes().items()]
        lines += [f"not accepted: {_counts(self._refusals())}"] if self._refusals() else []
        lines += [f"failed: {times} x {why}" for why, times in self._failures().items()]
        lines += [f"found by views {times} times: {what}" for what, times in self._left_behind().items()]
        for promise, ids in self.verdict.broken.items():
            lines += ["", f"{promise.upper()}: {len(ids)} ({_counts(Counter(map(self._last_seen, ids)))})"]
            lines += [line for id_ in ids[:SHOWN] for line in self._story(id_)]
        return "\n".join(lines)

    def _last_seen(self, id_: str) -> str:
        entry = self.evidence.ledger.get(id_)
        return f"{entry.queue} {entry.state} after {entry.attempts} attempts" if entry else "not in the ledger"

    def _story(self, id_: str) -> list[str]:
        """Returns everything that is known about a dispatch."""
        entry, found = self.evidence.ledger.get(id_), self.evidence
        ends = found.endings.get(id_, 0)
        error = f" ({entry.error})" if entry and entry.error else ""
        logged = [f"    {name}: {line}" for name, lines in self.logs.items() for line in lines if id_ in line]
        runs = [f"    {_described(execution)}" for execution in found.of(id_)]
        left = [f"    found: {what}" for what in found.leftovers.get(id_, ())]
        return [f"  {id_}: {self._last_seen(id_)}{error}, ended {ends} times", *runs, *left, *logged[-LINES:]]


def _described(execution: RunOfView) -> str:
    end = "did not end" if execution.ended is None else f"raised {execution.ended}" if execution.ended else "returned"
    killed = ", which was killed" if execution.killed else ""
    return f"attempt {execution.attempt} {end} in process {execution.pid}{killed}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {times}" for name, times in counts.items())
