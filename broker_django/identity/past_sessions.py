"""The session data at acceptance, for a replay whose session has ended meanwhile.

Packages for second factors, impersonation and audits store there what they know about a user. It is read-only: nothing
restores an ended session.
"""

from __future__ import annotations

import copy
import json
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from broker_django.identity.freezing import freeze
from broker_django.identity.instances import NotFrozenError
from broker_django.identity.logged_in import LOGGED_IN, session_of
from broker_django.identity.thawing import thaw

if TYPE_CHECKING:
    from django.http import HttpRequest

logger = logging.getLogger("broker_django.identity.past_sessions")

DATA, ACTS = "data", "acts"


def describe(request: HttpRequest, user: str | None) -> dict[str, Any] | None:
    """Returns the session data that a replay needs, as JSON; None if the session names no user.

    ACTS means that its user acts for another one, whose key is `user`.
    """
    session = session_of(request)
    if session is None or user is None or LOGGED_IN not in session:
        return None
    data = _for_json(dict(session.items()))
    if data is None:
        return None
    return {DATA: data, ACTS: session[LOGGED_IN] != user}


def actor(described: dict[str, Any] | None) -> str | None:
    """Returns the key of the user who acts for another one."""
    return thaw(described[DATA])[LOGGED_IN] if described and described[ACTS] else None


def _for_json(data: dict[str, Any]) -> Any:
    """Returns the data, or its frozen form if JSON cannot represent it; None if it cannot be frozen."""
    try:
        if json.loads(json.dumps(data)) == data:
            return data
    except (TypeError, ValueError):
        pass
    try:
        return freeze(data)
    except NotFrozenError as error:
        logger.info("A session cannot be sent with the message. If it ends, the replay runs without it: %s", error)
        return None


def remembering(session: Any, described: dict[str, Any]) -> Any:
    """Returns the same session, which falls back to the described data. It keeps the attributes that its middleware
    set.
    """
    past: dict[str, Any] = thaw(described[DATA])
    if isinstance(session, Past):
        return session
    key, data = session.session_key, vars(session).get("_session_cache")
    store: Any = type(session)
    session.__class__ = _past(store)
    session.modified = vars(session).pop("modified", False)  # `Past` has a property of that name
    session.past, session.acts, session.past_key = past, described[ACTS], key
    if data is not None and session.has_ended(data):
        session.fall_back()
    return session


@lru_cache(maxsize=8)
def _past(store: Any) -> Any:
    return type(store.__name__, (Past, store), {"__module__": store.__module__, "__qualname__": store.__qualname__})


class Past:
    """Once its session has ended, it contains the data at acceptance, and is saved only under a new key."""

    past: dict[str, Any]
    past_key: str | None = None
    acts = False
    is_over = False
    session_key: str | None
    _session_cache: dict[str, Any]
    _session_key: str | None
    _modified = False

    def load(self) -> dict[str, Any]:
        key = self.session_key
        data: dict[str, Any] = super().load()  # type: ignore[misc]
        if key != self.past_key or not self.has_ended(data):
            return data
        self._session_key, self.is_over = key, True
        return copy.deepcopy(self.past)

    async def aload(self) -> dict[str, Any]:
        return await sync_to_async(self.load)()

    def has_ended(self, data: dict[str, Any]) -> bool:
        """Whether this is another user's session, or its user no longer acts for another: the keys that said so are
        gone.
        """
        return data.get(LOGGED_IN) != self.past.get(LOGGED_IN) or (self.acts and not data.keys() >= self.past.keys())

    def fall_back(self) -> None:
        """Fall back after Django found that the session is no longer valid, and emptied it."""
        self._session_key, self.is_over = self.past_key, True
        self._session_cache = copy.deepcopy(self.past)

    @property
    def ended(self) -> bool:
        """Whether the client must not receive its cookie. A session with a new key is for the client."""
        return self.is_over and self.session_key == self.past_key

    @property
    def modified(self) -> bool:
        return self._modified and not self.ended

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified = value

    def save(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002 - SessionBase's signature
        if not self.ended:
            super().save(must_create)  # type: ignore[misc]

    async def asave(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002 - SessionBase's signature
        await sync_to_async(self.save)(must_create)

    def cycle_key(self) -> None:
        """Data of an ended session is not copied to a new one."""
        if self.ended:
            self.flush()  # type: ignore[attr-defined]
        super().cycle_key()  # type: ignore[misc]

    async def acycle_key(self) -> None:
        await sync_to_async(self.cycle_key)()
