"""What a browser sends when a form of the admin is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker_django.models import Router

FIELDS = ("code", "source", "rank", "action", "condition", "methods", "queue", "sticky_by", "sticky_name")


def router_form(row: Router, **changes: object) -> dict[str, Any]:
    """Returns the form of a router with its destinations, with other values for these fields."""
    destinations = list(row.destinations.all())
    data = {
        **{name: getattr(row, name) for name in FIELDS},
        "is_active": "on",
        "destinations-TOTAL_FORMS": len(destinations),
        "destinations-INITIAL_FORMS": len(destinations),
    }
    for number, each in enumerate(destinations):
        prefix = f"destinations-{number}"
        data |= {f"{prefix}-id": each.pk, f"{prefix}-router": row.pk, f"{prefix}-url": each.url}
        data |= {f"{prefix}-weight": each.weight, f"{prefix}-carry_params": "on", f"{prefix}-is_active": "on"}
    return data | changes
