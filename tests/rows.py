"""Turn rows of tests into dispatches for the ledger."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from broker_core.dispatches import Dispatch, SealedRequest, State
from broker_django.ledger import ledger

if TYPE_CHECKING:
    from broker_django.models import DispatchRecord


def as_dispatch(record: DispatchRecord) -> Dispatch:
    values = {each.name: getattr(record, each.name) for each in fields(Dispatch)}
    return Dispatch(**{**values, "state": State(record.state)})


def as_request(record: DispatchRecord) -> SealedRequest:
    return SealedRequest(as_dispatch(record), bytes(record.sealed), record.sealed_file, record.sealed_with)


def accept(record: DispatchRecord) -> None:
    """Let the ledger accept the row as a dispatch."""
    ledger.accept(as_request(record))
    record._state.adding = False
