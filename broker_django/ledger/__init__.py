"""The ledger of the project: the record of every accepted request, written before it is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_core.dispatches.events import Events
from broker_django.ledger.database import DatabaseLedger
from broker_django.ledger.subscribers import log, signal, wake

if TYPE_CHECKING:
    from broker_core.dispatches import Ledger

__all__ = ["ledger"]

ledger: Ledger = DatabaseLedger(Events(wake, log, signal))
