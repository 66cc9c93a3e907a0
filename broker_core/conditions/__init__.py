"""Conditions in the Common Expression Language (https://cel.dev)."""

from broker_core.conditions.condition import (
    FUNCTIONS,
    MAX_LENGTH,
    MOST_ENTRIES,
    VARIABLES,
    Condition,
    Conditions,
    Evaluation,
    Values,
    context,
)

__all__ = [
    "FUNCTIONS",
    "MAX_LENGTH",
    "MOST_ENTRIES",
    "VARIABLES",
    "Condition",
    "Conditions",
    "Evaluation",
    "Values",
    "context",
]
