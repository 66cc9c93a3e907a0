"""The work that view and task have in common."""

from __future__ import annotations

import hashlib
from typing import Any


def receipt(amount: str) -> dict[str, Any]:
    """About as much as a small view does, without a database: what is compared is the carrying, not the work."""
    digest = amount.encode()
    for _ in range(200):
        digest = hashlib.sha256(digest).digest()
    return {"paid": amount, "receipt": digest.hex()}
