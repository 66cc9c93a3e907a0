"""Routers: which one matches a request, and which destination the request is sent to."""

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
