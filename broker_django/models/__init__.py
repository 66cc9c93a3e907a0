"""The broker's database tables."""

from broker_django.models.dispatches import ActionRecord, AttemptRecord, DispatchRecord
from broker_django.models.routing import Destination, Router, RoutingVersion, rows_changed

__all__ = [
    "ActionRecord",
    "AttemptRecord",
    "Destination",
    "DispatchRecord",
    "Router",
    "RoutingVersion",
    "rows_changed",
]
