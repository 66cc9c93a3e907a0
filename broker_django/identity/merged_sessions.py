"""A session that two requests write to at the same time: the client's request, and the replay of an earlier one.

Django saves a session as a whole, so the later save would undo the changes of the other.
"""

from __future__ import annotations

import contextlib
import copy
from functools import lru_cache
from http.cookies import Morsel, SimpleCookie
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import router, transaction
from django.db.models import F
from django.utils.module_loading import import_string

from broker_django.http.protected_responses import ProtectedCookies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_django.identity.past_sessions import Past


def merged(session: Any, *, only_changes: bool = False) -> Any:
    """Returns the same session, not yet loaded. On save, its changes are merged into what others have saved meanwhile.

    With `only_changes` it is not saved unless something in it was changed.
    """
    late = reopened(session, session.session_key)
    store: Any = type(late)
    late.__class__ = _merging(store)
    late.only_changes = only_changes
    return late


def reopened(session: Any, key: str | None) -> Any:
    """Returns a session of the same kind with this key, not yet loaded, with the attributes that its middleware set."""
    made = object.__new__(type(session))
    vars(made).update(vars(session))
    for name in ("_session_cache", "_loaded", "ended"):
        vars(made).pop(name, None)
    made._session_key, made.accessed, made.modified = key, False, False
    return made


@lru_cache(maxsize=8)
def _merging(store: Any) -> Any:
    """Returns the project's session store with another way to save."""
    names = {"__module__": store.__module__, "__qualname__": store.__qualname__}  # its salt may depend on them
    return store if issubclass(store, Merging) else type(store.__name__, (Merging, store), names)


class Merging:
    """Saves the keys that were set or deleted since it was loaded, and keeps other keys as others saved them.

    It is not saved if another request changed its key or ended it, as a login, a password change and a logout do.
    """

    ended = False
    """Whether another request changed the key or ended the session. The client then receives another cookie."""
    only_changes = False
    modified: bool
    session_key: str | None
    _session_cache: dict[str, Any]
    _session_key: str | None
    _loaded: tuple[str | None, dict[str, Any]] = None, {}

    def load(self) -> dict[str, Any]:
        data = self._current()
        self._loaded = self.session_key, copy.deepcopy(data)
        return data

    async def aload(self) -> dict[str, Any]:
        return await sync_to_async(self.load)()

    def save(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002 - SessionBase's signature
        if must_create:
            self.ended = False
            super().save(must_create)  # type: ignore[misc]
        elif self.only_changes and not self.modified:
            self._merge()
        else:
            with self._locked():
                self._merge()
                if not self.ended:
                    self._save()

    def _save(self) -> None:
        try:
            super().save()  # type: ignore[misc]
        except import_string("django.contrib.sessions.backends.base.UpdateError"):
            self.ended = True

    async def asave(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002 - SessionBase's signature
        await sync_to_async(self.save)(must_create)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the session between read and write, if sessions are database rows."""
        model = getattr(self, "model", None)
        if model is None or self.session_key is None:
            yield
            return
        alias = router.db_for_write(model)
        with transaction.atomic(using=alias):
            rows = model._default_manager.using(alias).filter(session_key=self.session_key)
            rows.update(
                expire_date=F("expire_date")
            )  # locks the row on every database; not all support SELECT FOR UPDATE
            yield

    def _current(self) -> dict[str, Any]:
        """Returns the stored data. If nothing is stored, the store removes the session's key, except signed cookies."""
        key = self.session_key
        data: dict[str, Any] = super().load()  # type: ignore[misc]
        if self.session_key != key:
            self._session_key, self.ended = key, True
        return data

    def _merge(self) -> None:
        """Merge the changes into the stored data, unless the outer middleware itself changed the key or ended the
        session.
        """
        mine: dict[str, Any] = self._get_session()  # type: ignore[attr-defined]
        key, before = self._loaded
        if key is None or key != self.session_key or self.ended:
            return
        current = self._current()
        changed = {name: value for name, value in mine.items() if name not in before or before[name] != value}
        kept = {name: value for name, value in current.items() if name in mine or name not in before}
        self._session_cache = {**kept, **changed}


class Cookies(SimpleCookie):
    """Response cookies that the outer middleware cannot change if the session has ended.

    Stored cookies cannot be changed either.
    """

    def __init__(self, cookies: SimpleCookie, session: Merging | Past) -> None:
        super().__init__()
        self._session = session
        self._stored = frozenset(cookies) if isinstance(cookies, ProtectedCookies) else frozenset()
        for name, morsel in cookies.items():
            super().__setitem__(name, morsel)

    def _is_refused(self, name: str) -> bool:
        return name in self._stored or (name == settings.SESSION_COOKIE_NAME and self._session.ended)

    def __setitem__(self, key: str, value: Any) -> None:
        if not self._is_refused(key):
            super().__setitem__(key, value)

    def __getitem__(self, key: str) -> Morsel[str]:
        if not self._is_refused(key):
            return super().__getitem__(key)
        return super().__getitem__(key).copy() if key in self else Morsel()
