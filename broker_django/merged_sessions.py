"""A session that two requests write into at once: that of a client, and the replay of what it sent.

Django saves a session as a whole, so the later of the two would undo what the other wrote.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

from asgiref.sync import sync_to_async


def merged(session: Any) -> Any:
    """The same session, not loaded yet. What is changed in it is laid over what others have saved meanwhile."""
    store: Any = type(session)
    return _merging(store)(session.session_key)


@lru_cache(maxsize=8)
def _merging(store: Any) -> Any:
    """The project's session store, with another way to save."""
    return store if issubclass(store, Merging) else type(store.__name__, (Merging, store), {})


class Merging:
    """Saves the keys that were set or deleted since it was loaded, and leaves the others as they are by then."""

    _session_cache: dict[str, Any]
    _loaded: tuple[str | None, dict[str, Any]] | None = None

    def load(self) -> dict[str, Any]:
        data: dict[str, Any] = super().load()  # type: ignore[misc]
        self._loaded = self.session_key, copy.deepcopy(data)  # type: ignore[attr-defined]
        return data

    async def aload(self) -> dict[str, Any]:
        return await sync_to_async(self.load)()

    def save(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002 - as SessionBase has it
        if not must_create and self._loaded is not None:
            key, before = self._loaded
            if key is not None and key == self.session_key:  # type: ignore[attr-defined] # neither renewed nor ended
                self._lay_over(before)
        super().save(must_create)  # type: ignore[misc]

    async def asave(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002
        await sync_to_async(self.save)(must_create)

    def _lay_over(self, before: dict[str, Any]) -> None:
        mine: dict[str, Any] = self._session_cache
        current: dict[str, Any] = super().load()  # type: ignore[misc]
        changed = {name: value for name, value in mine.items() if name not in before or before[name] != value}
        kept = {name: value for name, value in current.items() if name in mine or name not in before}
        self._session_cache = {**kept, **changed}
