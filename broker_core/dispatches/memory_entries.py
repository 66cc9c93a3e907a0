"""What a ledger in memory has of each dispatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from broker_core.dispatches.dispatch import (
    ERROR_LENGTH,
    NOT_REACHED,
    REVIVABLE,
    Dispatch,
    SealedRequest,
    State,
    storable,
)

if TYPE_CHECKING:
    from datetime import datetime

    from broker_core.dispatches.ledger import Selection
    from broker_core.policies import QueuePolicy


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that ended and was not the last."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime
    status: int | None
    error: str


@dataclass(slots=True)
class Entry:
    """What the ledger has of one dispatch."""

    dispatch: Dispatch
    content: bytes
    file: str
    seal: str
    response: str | None = None
    ended_attempts: list[EndedAttempt] = field(default_factory=list)
    revived_at: list[datetime] = field(default_factory=list)

    @property
    def is_dead_letter(self) -> bool:
        return self.dispatch.state in REVIVABLE and bool(self.content or self.file)

    @property
    def sealed(self) -> SealedRequest:
        return SealedRequest(self.dispatch, self.content, self.file, self.seal)

    @property
    def is_handed_back(self) -> bool:
        last = self.ended_attempts[-1] if self.ended_attempts else None
        return last is not None and last.number == self.dispatch.attempts and last.error.startswith(NOT_REACHED)

    def last_wanted(self) -> datetime:
        return max([self.dispatch.accepted_at, *self.revived_at])


def facts(dispatch: Dispatch) -> tuple[Any, ...]:
    """What a reaper has seen of a dispatch that it publishes."""
    return dispatch.attempts, dispatch.due_at, dispatch.published_at


def is_free(dispatch: Dispatch, policy: QueuePolicy, now: datetime) -> bool:
    """Whether it can be claimed. The first claim does not ask whether it waits: the message may have come after all."""
    if dispatch.state is not State.QUEUED or dispatch.is_over(now):
        return False
    return not dispatch.attempts or (dispatch.due_at is None and dispatch.attempts_of_run < policy.starts)


def ended(dispatch: Dispatch, now: datetime, status: int | None, error: str) -> EndedAttempt:
    started = dispatch.started_at or now
    return EndedAttempt(dispatch.attempts, dispatch.worker, started, now, status, storable(error, ERROR_LENGTH))


def is_due(dispatch: Dispatch, now: datetime) -> bool:
    return dispatch.publish_at is not None and dispatch.publish_at <= now and dispatch.published_at is None


def due_at(dispatch: Dispatch) -> datetime:
    return dispatch.due_at or dispatch.accepted_at


def accepted_at(entry: Entry) -> datetime:
    return entry.dispatch.accepted_at


def fits(dispatch: Dispatch, selection: Selection) -> bool:
    return (
        (not selection.ids or dispatch.id in selection.ids)
        and selection.queue in {None, dispatch.queue}
        and selection.state in {None, dispatch.state}
        and selection.route in {None, dispatch.route}
        and (selection.error or "").lower() in dispatch.error.lower()
        and (selection.accepted_before is None or dispatch.accepted_at < selection.accepted_before)
        and (selection.accepted_since is None or dispatch.accepted_at >= selection.accepted_since)
    )
