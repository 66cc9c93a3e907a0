"""The broker's database tables."""

from broker_core.dispatches import PATH_LENGTH
from broker_django.models.dispatches import ActionRecord, AttemptRecord, DispatchRecord
from broker_django.models.routing import URL_LENGTH, Destination, Router, RoutingVersion, rows_changed

__all__ = [
    "PATH_LENGTH",
    "URL_LENGTH",
    "ActionRecord",
    "AttemptRecord",
    "Destination",
    "DispatchRecord",
    "Router",
    "RoutingVersion",
    "rows_changed",
]
