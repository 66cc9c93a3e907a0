"""The claims that this process holds, renewed for as long as their views run."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import OperationalError, connections

from broker_core.ledgers import LEASE_MARGIN
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.ledger import ledger
from broker_django.messaging.publishing import HARD_LIMIT_MARGIN
from workers.recovery import locks

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

    from broker_core.policies import QueuePolicy

logger = logging.getLogger("workers.replaying.leases")

RENEWALS = 3
"""How often a lease is renewed before it would run out: two of them may fail."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that runs here. `since` and `until`, when nobody believes in it any more, are monotonic seconds."""

    dispatch_id: uuid.UUID
    attempt: int
    since: float
    until: float


class Leases:
    """Renews from a thread of its own, in the process that runs the view: when that is killed, the lease runs out.

    A view that ends soon costs no statement: its claim outlasts it.
    """

    def __init__(self) -> None:
        self._claims: set[Claim] = set()
        self._thread: threading.Thread | None = None
        self._some = threading.Event()

    @contextlib.contextmanager
    def held(self, dispatch_id: uuid.UUID, attempt: int, policy: QueuePolicy) -> Iterator[None]:
        """Hold the claim while the block runs, though not for much longer than the time limit of its queue."""
        now = time.monotonic()
        longest = policy.time_limit + HARD_LIMIT_MARGIN + LEASE_MARGIN.total_seconds()
        claim = Claim(dispatch_id, attempt, now, now + longest)
        self._claims.add(claim)
        self._some.set()
        if self._thread is None or not self._thread.is_alive():  # none has begun yet, or this process was forked
            self._thread = threading.Thread(target=self._run, name="broker-leases", daemon=True)
            self._thread.start()
        try:
            yield
        finally:
            self._claims.discard(claim)

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
        """Whether all is well: what could not be renewed is tried again soon."""
        held = [claim for claim in self._claims.copy() if claim.since + step / 2 <= now < claim.until]
        if not held:
            return True
        try:
            locks.limit_waits()
            _renew(held)
        except ledger.failures as error:
            logger.warning("%d leases could not be renewed, there is another try: %s", len(held), redacted(error))
            return False
        else:
            return True
        finally:
            connections.close_all()


def _renew(held: list[Claim]) -> None:
    """All at once; where somebody else has locked one of the rows, one after another."""
    try:
        ledger.renew((claim.dispatch_id, claim.attempt) for claim in held)
    except OperationalError as error:
        if not locks.is_timeout(error) or len(held) == 1:
            raise
        for claim in held:
            with contextlib.suppress(OperationalError):
                ledger.renew([(claim.dispatch_id, claim.attempt)])


leases = Leases()
