"""Dispatches: accepted requests, their states and the outcomes of their attempts."""

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
"""The maximum lengths that a ledger stores, in characters."""

NOT_REACHED = "the view was not reached"
"""The error of an attempt starts with this if it did not reach the view."""
ELSEWHERE = f"{NOT_REACHED}: the URL leads"
"""The same, if the URL now leads to another view or to none."""


class State(StrEnum):
    """The states of a dispatch."""

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
"""The states that may follow each state.

RUNNING returns to QUEUED if the attempt is retried or its worker was lost. QUEUED becomes FAILED if no worker can run
the dispatch, or if no attempt is left.
"""

REVIVABLE = frozenset({State.FAILED, State.EXPIRED})
"""The states from which an operator may revive a dispatch. Nothing else leaves a final state."""


def sources(state: State) -> tuple[State, ...]:
    """Returns the states that may precede `state`."""
    return tuple(before for before, after in FOLLOWERS.items() if state in after)


class Moments:
    """The three meanings of `due_at`, the time at which the reaper processes a dispatch.

    Each is None in other states, or if nothing is due.
    """

    __slots__ = ()

    @property
    def publish_at(self) -> datetime | None:
        """When a queued dispatch will be published. None if it was published at `published_at`."""
        return self._due_in(State.QUEUED)

    @property
    def lease_ends_at(self) -> datetime | None:
        """When a running dispatch counts as lost, unless its worker renews the lease."""
        return self._due_in(State.RUNNING)

    @property
    def drop_response_at(self) -> datetime | None:
        """When the stored response is dropped, if the dispatch is done."""
        dispatch: Any = self
        return dispatch.due_at if State(dispatch.state).done else None

    def _due_in(self, state: State) -> datetime | None:
        dispatch: Any = self
        return dispatch.due_at if dispatch.state == state else None


@dataclass(frozen=True, slots=True)
class Dispatch(Moments):
    """One accepted request, as it was when the ledger read it. Its id is the Celery task id.

    user: identifies the owner; empty for an anonymous client. credential: kinds and digests of the credentials that the
    client sent. host, tenant: the site that received the request. trace_fields: header fields of the trace, as JSON.
    idempotency_key: a unique digest of the key; fingerprint: digest of the request that the key is for.
    attempts_before: attempts that do not count against the policy. expires_at: when the client no longer wants the
    response. keeps_response: whether the ledger stores the response, because the result store refused it.
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
    def pk(self) -> UUID:
        """The id, by the name that it has on an instance of a model."""
        return self.id

    @property
    def attempts_of_run(self) -> int:
        """The attempts that count against the policy."""
        return self.attempts - self.attempts_before

    def has_expired(self, now: datetime) -> bool:
        """Whether the client no longer wants the response."""
        return self.expires_at is not None and self.expires_at <= now

    def summary(self) -> dict[str, Any] | None:
        """Returns the `response` member of the status document."""
        if self.response_status is None:
            return None
        return {"status": self.response_status, "content_type": self.response_type, "size": self.response_size}


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A dispatch with its sealed request: either the content or the name of the file that contains it.

    seal: version of the message and id of its key; empty if unknown.
    """

    dispatch: Dispatch
    content: bytes = b""
    file: str = ""
    seal: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the dispatch can still run."""
        return bool(self.content or self.file)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `status` is None if there is no response; `error` is empty for a success.

    retriable: whether another attempt may succeed. retry_after: the minimum pause before it, in seconds.
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
    """What identifies a running attempt. A field that is None matches any attempt.

    since: the attempt did not start earlier. lapsed_at: its lease had ended by then.
    """

    attempt: int | None = None
    worker: str | None = None
    since: datetime | None = None
    lapsed_at: datetime | None = None

    def is_of(self, dispatch: Dispatch) -> bool:
        """Whether the dispatch is running, in this attempt."""
        started, lease_ends = dispatch.started_at, dispatch.due_at
        return (
            dispatch.state is State.RUNNING
            and self.attempt in {None, dispatch.attempts}
            and (self.worker is None or self.worker[:WORKER_LENGTH] == dispatch.worker)
            and (self.since is None or (started is not None and started >= self.since))
            and (self.lapsed_at is None or (lease_ends is not None and lease_ends <= self.lapsed_at))
        )


def truncated(path: str) -> str:
    """Returns the path, shortened to what a ledger stores."""
    return storable(path, len(path)) if len(path) <= PATH_LENGTH else storable(path, PATH_LENGTH - 1) + "…"


def storable(text: str, length: int) -> str:
    """Returns text that every database can store: PostgreSQL stores no NUL, and none stores half a surrogate pair."""
    return text[:length].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
