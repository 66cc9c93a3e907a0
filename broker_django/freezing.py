"""Users and credentials as they were at the door, for a replay that cannot find them again.

They travel inside the sealed message, as JSON: rows by their keys, values as they are, other objects, and rows that
were never saved, by their class and their attributes. Nothing is pickled. Only what was sealed here is thawed, so
nobody else can name a class.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import uuid
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import models
from django.utils.functional import LazyObject
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEPTH = 12
"""How deep objects may hold one another."""
SIZE = 500
"""How many values there may be in all."""

_TEXTS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "seconds": (
        datetime.timedelta,
        lambda value: repr(value.total_seconds()),
        lambda text: datetime.timedelta(seconds=float(text)),
    ),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode("ascii"), base64.b64decode),
}
_SERIES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_NAMES: dict[type, str] = {kind: name for name, (kind, _say, _read) in _TEXTS.items()}
_NAMES |= {kind: name for name, kind in _SERIES.items()}


class NotFrozenError(Exception):
    """The value, or something in it, cannot travel: a connection, a lock, a function, a class of a function."""


def freeze(value: Any) -> Any:
    """What `thaw` makes an equal value of, for JSON. Raises NotFrozenError."""
    return _Freezer().freeze(value, 0)


class _Freezer:
    def __init__(self) -> None:
        self._left = SIZE

    def freeze(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth > DEPTH or self._left < 0:
            raise NotFrozenError("it is too large")
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind in _NAMES:
            name = _NAMES[kind]
            return [name, _TEXTS[name][1](value) if name in _TEXTS else self._series(value, depth, name)]
        if kind is dict:
            return ["dict", [self._series(pair, depth) for pair in value.items()]]
        return self._object(_evaluated(value), depth)

    def _series(self, values: Any, depth: int, name: str = "") -> list[Any]:
        """Sets in an order that is the same in each process."""
        frozen = [self.freeze(each, depth + 1) for each in values]
        return sorted(frozen, key=json.dumps) if name.endswith("set") else frozen

    def _object(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, models.Model):
            return _row(value) if _is_row(value) else ["unsaved", value._meta.label, self._fields(value, depth)]
        path = f"{kind.__module__}.{kind.__qualname__}"
        if not _is_importable(kind, path):
            raise NotFrozenError(f"{path} cannot be imported by that name")
        state = {name: self.freeze(each, depth + 1) for name, each in _attributes(value)}
        return ["object", path, state]

    def _fields(self, value: models.Model, depth: int) -> dict[str, Any]:
        """And whatever else was set on it; not the rows that it has looked up."""
        return {name: self.freeze(each, depth + 1) for name, each in vars(value).items() if name != "_state"}


def _evaluated(value: Any) -> Any:
    while isinstance(value, LazyObject):
        bool(value)
        value = value._wrapped
    return value


def _is_row(value: models.Model) -> bool:
    return value.pk is not None and not value._state.adding


def _row(value: models.Model) -> Any:
    return ["row", value._meta.label, str(value.pk), value._state.db]


def _is_importable(kind: type, path: str) -> bool:
    try:
        return import_string(path) is kind
    except ImportError:
        return False


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Of the instance, and in the slots of its classes. Raises NotFrozenError for what has neither."""
    state = getattr(value, "__dict__", None)
    slots = [slot for kind in type(value).__mro__ for slot in _slots(kind)]
    if state is None and not slots:
        raise NotFrozenError(f"{type(value).__name__} says nothing of itself")
    yield from (state or {}).items()
    for slot in slots:
        if hasattr(value, slot):
            yield slot, getattr(value, slot)


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    return [slots] if isinstance(slots, str) else [slot for slot in slots if slot not in ("__dict__", "__weakref__")]


def thaw(frozen: Any) -> Any:
    """The value again; a row as it is now, and None for one that is gone.

    Raises LookupError, ValueError or TypeError for what this code does not know any more.
    """
    if not isinstance(frozen, list):
        return frozen
    name, told = frozen[0], frozen[1]
    if name in _TEXTS:
        return _TEXTS[name][2](told)
    if name in _SERIES:
        return _SERIES[name](thaw(each) for each in told)
    if name == "dict":
        return {thaw(key): thaw(each) for key, each in told}
    if name == "row":
        return apps.get_model(told)._default_manager.using(frozen[3]).filter(pk=frozen[2]).first()
    kind = apps.get_model(told) if name == "unsaved" else _imported(told)
    return _made(kind, frozen[2])


def _imported(path: str) -> Any:
    try:
        return import_string(path)
    except ImportError as error:
        raise LookupError(f"{path} is not there any more") from error


def _made(kind: Any, state: dict[str, Any]) -> Any:
    made = kind() if issubclass(kind, models.Model) else kind.__new__(kind)
    for name, each in state.items():
        object.__setattr__(made, name, thaw(each))
    return made
