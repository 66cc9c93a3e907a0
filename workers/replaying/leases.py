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
class Claiming:
    """A dispatch that this thread tries to claim. Another thread may have a copy of its message."""

    dispatch_id: uuid.UUID
    policy: QueuePolicy
    claim: Claim | None = None


_claiming: ContextVar[Claiming | None] = ContextVar("request_broker.claiming", default=None)


class Leases:
    """Renews leases from a thread of the process that runs the view. If the process is killed, the lease expires.

    A short view costs no statement, because its claim outlasts it.
    """

    def __init__(self) -> None:
        self._claims: set[Claim] = set()
        self._thread: threading.Thread | None = None
        self._some = threading.Event()

    @contextlib.contextmanager
    def held(self, dispatch_id: uuid.UUID, attempt: int, policy: QueuePolicy) -> Iterator[None]:
        """Renew the claim while the block runs, but not much longer than the time limit of its queue."""
        claim = self._hold(dispatch_id, attempt, policy)
        try:
            yield
        finally:
            self._claims.discard(claim)

    def _hold(self, dispatch_id: uuid.UUID, attempt: int, policy: QueuePolicy) -> Claim:
        now = time.monotonic()
        longest = policy.time_limit + HARD_LIMIT_MARGIN + LEASE_MARGIN.total_seconds()
        claim = Claim(dispatch_id, attempt, now, now + longest)
        self._claims.add(claim)
        self._some.set()
        if self._thread is None or not self._thread.is_alive():  # not yet started, or this process was forked
            self._thread = threading.Thread(target=self._run, name="broker-leases", daemon=True)
            self._thread.start()
        return claim

    @contextlib.contextmanager
    def claiming(self, dispatch_id: uuid.UUID, policy: QueuePolicy) -> Iterator[None]:
        """Renew the claim that the block makes as soon as it is made: receivers of `dispatch_started` may be slow."""
        claiming = Claiming(dispatch_id, policy)
        token = _claiming.set(claiming)
        try:
            yield
        finally:
            _claiming.reset(token)
            if claiming.claim is not None:
                self._claims.discard(claiming.claim)

    def on_event(self, event: Event) -> None:
        """Subscriber of the ledger's events."""
        claiming = _claiming.get()
        if claiming is not None and event.kind is Kind.STARTED and event.dispatch_id == claiming.dispatch_id:
            claiming.claim = self._hold(event.dispatch_id, event.attempt, claiming.policy)

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
