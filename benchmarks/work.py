"""The work that the views and the task share."""

from __future__ import annotations

import hashlib
from typing import Any


def receipt(amount: str) -> dict[str, Any]:
    """Does about as much as a small view, without a database: the comparison is about the transport, not the work."""
    digest = amount.encode()
    for _ in range(200):
        digest = hashlib.sha256(digest).digest()
    return {"paid": amount, "receipt": digest.hex()}
