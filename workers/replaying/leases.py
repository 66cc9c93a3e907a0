"""Renew the claims of this process while their views run."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connections

from broker_core.dispatches.events import Kind
from broker_core.dispatches.transitions import LEASE_MARGIN
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.publishing import HARD_LIMIT_MARGIN

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

    from broker_core.dispatches.events import Event
    from broker_core.policies import QueuePolicy

logger = logging.getLogger("workers.replaying.leases")

RENEWALS = 3
"""How often a lease is renewed before it would expire: two renewals may fail."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that runs in this process. `since` and `until` (when it is given up) are monotonic seconds."""

    dispatch_id: uuid.UUID
    attempt: int
    since: float
    until: float


@dataclass(slots=True)
class Hold:
    """A dispatch whose claim a block holds, once it has one. Another thread may have a copy of its message."""

    dispatch_id: uuid.UUID
    policy: QueuePolicy
    claim: Claim | None = None


_hold: ContextVar[Hold | None] = ContextVar("request_broker.hold", default=None)


class Leases:
    """Renews leases from a thread of the process that runs the view. If the process is killed, the lease expires.

    A short view costs no statement, because its claim outlasts it.
    """

    def __init__(self) -> None:
        self._claims: set[Claim] = set()
        self._thread: threading.Thread | None = None
        self._some = threading.Event()

    @contextlib.contextmanager
    def held(self, dispatch_id: uuid.UUID, policy: QueuePolicy, attempt: int | None = None) -> Iterator[None]:
        """Renew the claim of an attempt until the block ends, but not much longer than the time limit of its queue.

        Without `attempt`, it is the claim that the block makes: its lease is renewed while the receivers of
        `dispatch_started` run, which may be slow.
        """
        hold = Hold(dispatch_id, policy)
        token = _hold.set(hold)
        try:
            if attempt is not None:
                self._begin(hold, attempt)
            yield
        finally:
            _hold.reset(token)
            if hold.claim is not None:
                self._claims.discard(hold.claim)

    def on_event(self, event: Event) -> None:
        """Subscriber of the ledger's events."""
        hold = _hold.get()
        if hold is not None and event.kind is Kind.STARTED and event.dispatch_id == hold.dispatch_id:
            self._begin(hold, event.attempt)

    def _begin(self, hold: Hold, attempt: int) -> None:
        now = time.monotonic()
        longest = hold.policy.time_limit + HARD_LIMIT_MARGIN + LEASE_MARGIN.total_seconds()
        hold.claim = Claim(hold.dispatch_id, attempt, now, now + longest)
        self._claims.add(hold.claim)
        self._some.set()
        if self._thread is None or not self._thread.is_alive():  # not yet started, or this process was forked
            self._thread = threading.Thread(target=self._run, name="broker-leases", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        step = 0.0
        while True:
            if not self._claims:
                self._some.clear()
                if not self._claims:
                    self._some.wait()
            time.sleep(step or conf.LEASE / RENEWALS)
            step = 0.0 if self._renew(time.monotonic(), conf.LEASE / RENEWALS) else min(1.0, conf.LEASE / 20)

    def _renew(self, now: float, step: float) -> bool:
        """Returns whether all leases were renewed. If not, it is tried again soon."""
        claims = [claim for claim in self._claims.copy() if claim.since + step / 2 <= now < claim.until]
        if not claims:
            return True
        try:
            ledger.limit_waits()
            _renew(claims)
        except ledger.failures as error:
            logger.warning("%d leases could not be renewed and are tried again: %s", len(claims), redacted(error))
            return False
        else:
            return True
        finally:
            connections.close_all()


def _renew(claims: list[Claim]) -> None:
    """Renew all at once. If one of the rows is locked, renew one after another."""
    try:
        ledger.renew((claim.dispatch_id, claim.attempt) for claim in claims)
    except ledger.failures as error:
        if not ledger.is_locked_out(error) or len(claims) == 1:
            raise
        for claim in claims:
            with contextlib.suppress(*ledger.failures):
                ledger.renew([(claim.dispatch_id, claim.attempt)])


leases = Leases()
ledger.events.subscribe(leases.on_event, first=True)
