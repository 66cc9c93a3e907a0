"""Routers: which of them a request meets, and which destination it is sent to."""

from broker_core.routing.routers import (
    ALWAYS,
    SAFE_METHODS,
    Action,
    Destination,
    Match,
    Route,
    Router,
    RoutingTable,
    StickyBy,
    check_url,
    condition_of,
    destination_url,
    first,
    methods_of,
    same_url,
    verdicts,
)

__all__ = [
    "ALWAYS",
    "SAFE_METHODS",
    "Action",
    "Destination",
    "Match",
    "Route",
    "Router",
    "RoutingTable",
    "StickyBy",
    "check_url",
    "condition_of",
    "destination_url",
    "first",
    "methods_of",
    "same_url",
    "verdicts",
]
