"""The Prefer header field (RFC 7240). Malformed and unknown preferences are ignored, as section 2 requires."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_LENGTH = 1024

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ITEM = re.compile(rf'(?:[^,"]|{_QUOTED}|")+')
_PREFERENCE = re.compile(rf"\s*({_NAME})\s*(?:=\s*({_NAME}|{_QUOTED}))?\s*(?:;.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client prefers: an asynchronous response, and for how many seconds it would wait for the
    response itself.
    """

    respond_async: bool = False
    wait: int | None = None

    def applied(self, held: float) -> str:
        """Returns the Preference-Applied value (RFC 7240, section 3) for a queued request whose client waited `held`
        seconds.
        """
        parts = ["respond-async"] if self.respond_async else []
        if self.wait is not None and held >= min(self.wait, 1):
            parts.append(f"wait={min(self.wait, int(held))}")
        return ", ".join(parts)


NO_PREFERENCES = Preferences()


@lru_cache(maxsize=256)
def parse_preferences(value: str) -> Preferences:
    """If a preference is repeated, the first one counts (RFC 7240, section 2)."""
    if not value or len(value) > MAX_LENGTH:
        return NO_PREFERENCES
    found: dict[str, str] = {}
    for item in _ITEM.findall(value):
        match = _PREFERENCE.fullmatch(item)
        if match:
            found.setdefault(match[1].lower(), (match[2] or "").strip('"'))
    wait = found.get("wait", "")
    return Preferences(
        respond_async=found.get("respond-async") == "",
        wait=int(wait) if wait.isascii() and wait.isdigit() and len(wait) < 10 else None,
    )
