"""Dispatches: one accepted request, its states, and how its attempts end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

PATH_LENGTH = 2_000
ERROR_LENGTH = 500
WORKER_LENGTH = 255
CONTENT_TYPE_LENGTH = 255
"""Characters that a ledger keeps of these."""

NOT_REACHED = "the view was not reached"
"""How the error of an attempt begins that did not come to its view."""
ELSEWHERE = f"{NOT_REACHED}: the URL leads"
"""The same, if the URL leads to another view, or to none."""


class State(StrEnum):
    """Where an accepted request is on its way."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def done(self) -> bool:
        return not FOLLOWERS[self]


FOLLOWERS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED, State.FAILED}),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}
"""After RUNNING comes QUEUED when the attempt failed and is to be repeated, or when its worker was lost. After QUEUED
comes FAILED when nobody can run it any more.
"""

REVIVABLE = frozenset({State.FAILED, State.EXPIRED})
"""The states from which somebody in charge may have a dispatch run again; nothing else leaves a state that is done."""


def sources(state: State) -> tuple[State, ...]:
    """The states that `state` may follow."""
    return tuple(before for before, after in FOLLOWERS.items() if state in after)


class Moments:
    """The three meanings of `due_at`, the moment at which the reaper takes a dispatch up. Rows of a ledger share them.

    Each is None in any other state, and if there is nothing to take up.
    """

    __slots__ = ()

    @property
    def publish_at(self) -> datetime | None:
        """When a queued dispatch is published. None if the message broker has had it since `published_at`."""
        return self._due_in(State.QUEUED)

    @property
    def lease_ends_at(self) -> datetime | None:
        """When a running dispatch counts as lost, unless its worker renews the lease."""
        return self._due_in(State.RUNNING)

    @property
    def drop_response_at(self) -> datetime | None:
        """When the stored response of a dispatch that is done is dropped."""
        dispatch: Any = self
        return dispatch.due_at if State(dispatch.state).done else None

    def _due_in(self, state: State) -> datetime | None:
        dispatch: Any = self
        return dispatch.due_at if dispatch.state == state else None


@dataclass(frozen=True, slots=True)
class Dispatch(Moments):
    """One accepted request, as a ledger has it at one moment. Its id is the Celery task id.

    user: how the ledger names its owner, empty for nobody. credential: kinds and digests of what the client identified
    with. host, tenant: the site that it was sent to. trace_fields: header fields of its trace, as JSON.
    idempotency_key: digest that no other dispatch has; fingerprint: digest of the request that the key is for.
    attempts_before: the attempts before it was last revived. expires_at: when nobody wants the answer any more.
    keeps_response: whether the ledger itself keeps the response, until its result store takes it.
    """

    id: UUID
    queue: str
    accepted_at: datetime
    state: State = State.QUEUED
    method: str = ""
    path: str = ""
    route: str = ""
    reason: str = ""
    user: str = ""
    credential: str = ""
    host: str = ""
    tenant: str = ""
    trace_id: str = ""
    trace_fields: str | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""
    attempts: int = 0
    attempts_before: int = 0
    worker: str = ""
    published_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    due_at: datetime | None = None
    response_status: int | None = None
    response_type: str = ""
    response_size: int | None = None
    error: str = ""
    keeps_response: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path} ({self.queue})"

    @property
    def attempts_of_run(self) -> int:
        """The attempts since it was accepted, or last revived."""
        return self.attempts - self.attempts_before

    def is_over(self, now: datetime) -> bool:
        """Whether nobody wants the answer any more."""
        return self.expires_at is not None and self.expires_at <= now

    def summary(self) -> dict[str, Any] | None:
        """The `response` member of the status document."""
        if self.response_status is None:
            return None
        return {"status": self.response_status, "content_type": self.response_type, "size": self.response_size}


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """The sealed request of a dispatch: its content, or the name of the file that it lies in.

    seal: version of the message and id of the key that it was sealed with; empty if nobody wrote it down.
    """

    dispatch: Dispatch
    content: bytes = b""
    file: str = ""
    seal: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the dispatch can run (again)."""
        return bool(self.content or self.file)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `status` is None where there is no response; `error` is empty for a success.

    retriable: whether another attempt may end otherwise, in `retry_after` seconds at the earliest.
    """

    status: int | None = None
    content_type: str = ""
    size: int = 0
    error: str = ""
    retriable: bool = False
    retry_after: float | None = None

    @property
    def state(self) -> State:
        return State.FAILED if self.error else State.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of an attempt that runs: its number, or the worker that it runs on and when it cannot have begun
    yet, or when its lease had run out.
    """

    attempt: int | None = None
    worker: str | None = None
    since: datetime | None = None
    lapsed_at: datetime | None = None

    def is_of(self, dispatch: Dispatch) -> bool:
        """Whether the dispatch runs, in this attempt."""
        started, lease_ends = dispatch.started_at, dispatch.due_at
        return (
            dispatch.state is State.RUNNING
            and self.attempt in {None, dispatch.attempts}
            and (self.worker is None or self.worker[:WORKER_LENGTH] == dispatch.worker)
            and (self.since is None or (started is not None and started >= self.since))
            and (self.lapsed_at is None or (lease_ends is not None and lease_ends <= self.lapsed_at))
        )


def truncated(path: str) -> str:
    """The path as far as a ledger keeps it."""
    return storable(path, len(path)) if len(path) <= PATH_LENGTH else storable(path, PATH_LENGTH - 1) + "…"


def storable(text: str, length: int) -> str:
    """What every ledger takes: PostgreSQL keeps no NUL, and no database keeps half of a surrogate pair."""
    return text[:length].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
