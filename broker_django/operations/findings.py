"""Findings of `broker_doctor` about a worker's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker_django.conf import conf


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, the result, and advice; no advice if all is well."""

    subject: str
    detail: str
    advice: str = ""

    @property
    def well(self) -> bool:
        return not self.advice


def keys(worker: str, theirs: list[str]) -> Finding:
    """Compare key ids. Each side seals with its first key, and both must be able to open that."""
    ours = conf.keyring.key_ids
    subject, shown = f"keys of {worker}", f"its keys: {', '.join(theirs)}; keys of this process: {', '.join(ours)}"
    if not set(ours) & set(theirs):
        return Finding(
            subject,
            f"it consumes our queues but has none of our keys: another project, or another SECRET_KEY ({shown})",
            "If it belongs to another project, give each project its own PREFIX in REQUEST_BROKER, Redis database or "
            "virtual host. If it is ours, give it the SECRET_KEY of the web processes.",
        )
    if ours[0] not in theirs or theirs[0] not in ours:
        reader = worker if ours[0] not in theirs else "this process"
        return Finding(
            subject,
            f"not all keys are known: {reader} cannot open new messages ({shown})",
            "Add the newer key to SECRET_KEY_FALLBACKS everywhere before it becomes SECRET_KEY anywhere.",
        )
    if set(ours) != set(theirs):
        return Finding(
            subject,
            f"not all keys are known on both sides: messages sealed with an old key may not open ({shown})",
            "Give web processes and workers the same SECRET_KEY_FALLBACKS.",
        )
    return Finding(subject, "the same as those of this process")


def consumption(worker: str, reply: dict[str, Any], patience: float) -> Finding:
    """Returns whether the worker runs tasks. `patience` is the seconds that a free slot had to run a probe."""
    subject, slots, active = f"worker {worker}", reply["slots"], reply["active"]
    running = "; ".join(f"{each['name']} ({each['id']}) for {each['seconds']:.0f} s" for each in reply["running"])
    if reply["lost"]:
        return Finding(
            subject,
            f"{reply['lost']} of {slots} slots are lost: their tasks ended unnoticed ({running})",
            "Restart it. Its log names the task that ended with SystemExit or KeyboardInterrupt.",
        )
    answered_in = reply.get("answered_in", 0.0)
    if answered_in is None:
        return Finding(
            subject,
            f"it answers, but ran no task within {patience:g} s though {slots - active} of {slots} slots are free",
            "Restart it and read its log. It does not consume its queues, or its processes hang.",
        )
    if "answered_in" not in reply and active < slots:
        return Finding(subject, f"it could not be probed; {active} of {slots} slots are busy")
    if answered_in:
        return Finding(subject, f"ran a probe in {answered_in * 1000:.0f} ms, {active} of {slots} slots are busy")
    return Finding(subject, f"busy: {active} of {slots} slots run {running or 'tasks that have just begun'}")
