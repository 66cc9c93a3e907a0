"""The session of a request as it was at the door, for a replay whose session has ended meanwhile.

Packages for second factors, impersonation and audits keep in it what they know of a user. It can be read only: nothing
makes a session again that was ended.
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
    """What a replay has to know of the session, for JSON; None if the session names nobody.

    ACTS says that its user acts for another one, whom `user` is the key of.
    """
    session = session_of(request)
    if session is None or user is None or LOGGED_IN not in session:
        return None
    data = _for_json(dict(session.items()))
    if data is None:
        return None
    return {DATA: data, ACTS: session[LOGGED_IN] != user}


def actor(told: dict[str, Any] | None) -> str | None:
    """The key of the user who acts for another one."""
    return thaw(told[DATA])[LOGGED_IN] if told and told[ACTS] else None


def _for_json(data: dict[str, Any]) -> Any:
    """The same, or what `freezing` makes of values that JSON does not know; None if they cannot travel."""
    try:
        if json.loads(json.dumps(data)) == data:
            return data
    except (TypeError, ValueError):
        pass
    try:
        return freeze(data)
    except NotFrozenError as error:
        logger.info("A session cannot travel, a replay does without it once it has ended: %s", error)
        return None


def remembering(session: Any, told: dict[str, Any]) -> Any:
    """The same session, which falls back on what was described. Whatever else its middleware told it, it keeps."""
    past: dict[str, Any] = thaw(told[DATA])
    if isinstance(session, Past):
        return session
    key, data = session.session_key, vars(session).get("_session_cache")
    store: Any = type(session)
    session.__class__ = _past(store)
    session.modified = vars(session).pop("modified", False)  # Past has a property of that name
    session.past, session.acts, session.past_key = past, told[ACTS], key
    if data is not None and session.has_ended(data):
        session.fall_back()
    return session


@lru_cache(maxsize=8)
def _past(store: Any) -> Any:
    return type(store.__name__, (Past, store), {"__module__": store.__module__, "__qualname__": store.__qualname__})


class Past:
    """Once it has turned out that the session has ended, it is read as it was, and saved only under a new key."""

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
        """Whether this is another's session, or one in which nobody acts for another any more: what says so is gone."""
        return data.get(LOGGED_IN) != self.past.get(LOGGED_IN) or (self.acts and not data.keys() >= self.past.keys())

    def fall_back(self) -> None:
        """Django has found that the session is not valid any more, and emptied it."""
        self._session_key, self.is_over = self.past_key, True
        self._session_cache = copy.deepcopy(self.past)

    @property
    def ended(self) -> bool:
        """Whether the client is to have no cookie for it; only one under a new key is for the client."""
        return self.is_over and self.session_key == self.past_key

    @property
    def modified(self) -> bool:
        return self._modified and not self.ended

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified = value

    def save(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002 - as SessionBase has it
        if not self.ended:
            super().save(must_create)  # type: ignore[misc]

    async def asave(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002
        await sync_to_async(self.save)(must_create)

    def cycle_key(self) -> None:
        """What is left of the session is not taken over into a new one."""
        if self.ended:
            self.flush()  # type: ignore[attr-defined]
        super().cycle_key()  # type: ignore[misc]

    async def acycle_key(self) -> None:
        await sync_to_async(self.cycle_key)()
