"""The subscribers of the ledger: clients that wait, the log, and Django signals."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker_core.dispatches import Dispatch
from broker_core.dispatches.events import Kind
from broker_django import signals
from broker_django.messaging import notifications

if TYPE_CHECKING:
    from django.dispatch import Signal

    from broker_core.dispatches.events import Event

logger = logging.getLogger("broker_django.ledger")

NOBODY_WAITS = frozenset({Kind.ACCEPTED, Kind.STARTED})
"""No client can wait before the dispatch is accepted. Clients see that it runs with their next request."""


def wake(event: Event) -> None:
    """Wake the clients that wait for the dispatch."""
    if event.kind not in NOBODY_WAITS:
        notifications.announce(event.dispatch_id)


def log(event: Event) -> None:
    if logger.isEnabledFor(logging.INFO):
        context = {"dispatch_id": str(event.dispatch_id)}
        logger.info("Dispatch %s: %s", event.dispatch_id, event.kind, extra=context)


def signal(event: Event) -> None:
    """Send the Django signal, if it has receivers. Django logs their errors."""
    sent = _signal_of(event.kind)
    if sent is not None and sent.has_listeners(Dispatch) and event.dispatch is not None:
        sent.send_robust(Dispatch, dispatch=event.dispatch, attempt=event.attempt)


def _signal_of(kind: Kind) -> Signal | None:
    if kind is Kind.ACCEPTED:
        return signals.dispatch_accepted
    if kind is Kind.STARTED:
        return signals.dispatch_started
    return signals.dispatch_finished if kind.finished else None
