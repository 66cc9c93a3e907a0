"""What `broker_doctor` makes of what a worker says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker_django.conf import conf


@dataclass(frozen=True, slots=True)
class Finding:
    """What was examined, what was seen, and what to do; no advice where all is well."""

    subject: str
    detail: str
    advice: str = ""

    @property
    def well(self) -> bool:
        return not self.advice


def keys(worker: str, theirs: list[str]) -> Finding:
    """Compare what tells keys apart: the first of each side seals, and both have to open it."""
    ours = conf.keyring.key_ids
    subject, shown = f"keys of {worker}", f"its keys are {', '.join(theirs)}, those of this process {', '.join(ours)}"
    if not set(ours) & set(theirs):
        return Finding(
            subject,
            f"it reads our queues and has none of our keys: another project, or another SECRET_KEY ({shown})",
            "If it is of another project, give each project a PREFIX in REQUEST_BROKER, or a Redis database or virtual "
            "host of its own. If it is ours, give it the SECRET_KEY of the web processes.",
        )
    if ours[0] not in theirs or theirs[0] not in ours:
        reader = worker if ours[0] not in theirs else "this process"
        return Finding(
            subject,
            f"not all keys are known: {reader} cannot open what is sealed now ({shown})",
            "Add the newer key to SECRET_KEY_FALLBACKS everywhere before it becomes SECRET_KEY anywhere.",
        )
    if set(ours) != set(theirs):
        return Finding(
            subject,
            f"not all keys are known on both sides: what was sealed with an old one may not be opened ({shown})",
            "Give web processes and workers the same SECRET_KEY_FALLBACKS.",
        )
    return Finding(subject, "the same as those of this process")


def consumption(worker: str, reply: dict[str, Any], patience: float) -> Finding:
    """`patience` is how many seconds a free slot had to run a probe."""
    subject, slots, active = f"worker {worker}", reply["slots"], reply["active"]
    running = "; ".join(f"{each['name']} ({each['id']}) for {each['seconds']:.0f} s" for each in reply["running"])
    if reply["lost"]:
        return Finding(
            subject,
            f"{reply['lost']} of {slots} slots are lost: their tasks ended without saying so ({running})",
            "Restart it. Its log says which task ended with SystemExit or KeyboardInterrupt.",
        )
    took = reply.get("answered_in", 0.0)
    if took is None:
        return Finding(
            subject,
            f"it answers, but ran no task within {patience:g} s though {slots - active} of {slots} slots are free",
            "Restart it, and look into its log: it does not read its queues, or its processes are stuck.",
        )
    if "answered_in" not in reply and active < slots:
        return Finding(subject, f"it could not be probed; {active} of {slots} slots are busy")
    if took:
        return Finding(subject, f"ran a probe in {took * 1000:.0f} ms, {active} of {slots} slots are busy")
    return Finding(subject, f"busy: {active} of {slots} slots run {running or 'what has just begun'}")
