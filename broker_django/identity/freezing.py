"""Freeze users and credentials as JSON, for a replay that cannot find them again.

They travel inside the sealed message. Rows are frozen as their keys, enumeration members as their names, and other
objects and unsaved rows as their class and attributes. An object of a class that extends a container or a string keeps
its content. Objects with unreadable state are refused, because two users must not freeze alike. Nothing is pickled, and
only what was sealed here is thawed, so nobody else can name a class.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
import struct
import uuid
from collections import OrderedDict, deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from django.db import models
from django.utils.module_loading import import_string

from broker_django.identity.instances import NotFrozenError, dict_of, evaluated, is_row, slot_values_of, slots_of

if TYPE_CHECKING:
    from collections.abc import Callable

DEPTH = 12
"""How deeply objects may be nested."""
SIZE = 500
"""How many values there may be in total."""
TEXTS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "seconds": (
        datetime.timedelta,
        lambda value: repr(datetime.timedelta.total_seconds(value)),
        lambda text: datetime.timedelta(seconds=float(text)),
    ),
    "decimal": (decimal.Decimal, decimal.Decimal.__str__, decimal.Decimal),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode("ascii"), base64.b64decode),
    "bytearray": (
        bytearray,
        lambda value: base64.b64encode(value).decode("ascii"),
        lambda text: bytearray(base64.b64decode(text)),
    ),
    "complex": (complex, complex.__repr__, complex),
    "range": (
        range,
        lambda value: f"{value.start} {value.stop} {value.step}",
        lambda text: range(*map(int, text.split())),
    ),
    "offset": (
        datetime.timezone,
        lambda value: repr(value.utcoffset(None).total_seconds()),
        lambda text: datetime.timezone(datetime.timedelta(seconds=float(text))),
    ),
}
SERIES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
_NAMES: dict[type, str] = {kind: name for name, (kind, _say, _read) in TEXTS.items()}
_NAMES |= {kind: name for name, kind in SERIES.items()}
_NAMES |= {dict: "dict", OrderedDict: "ordered", MappingProxyType: "mappingproxy"}
MAPPINGS: dict[str, Any] = {
    "dict": dict,
    "ordered": OrderedDict,
    "mappingproxy": lambda items: MappingProxyType(dict(items)),
}
_EXACT: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}
"""Reads a value of a subclass, whatever the subclass overrides."""
_EXTENDED = (_NAMES.keys() | _EXACT.keys()) - {uuid.UUID, bytearray, deque}
"""Types whose instances have state outside of their attributes, also in subclasses."""


def freeze(value: Any, *, whole_rows: bool = False) -> Any:
    """Returns JSON data that `thaw` turns into an equal value. With `whole_rows`, rows include their fields, because
    they may be deleted meanwhile.

    Raises NotFrozenError.
    """
    return _Freezer(whole_rows=whole_rows).freeze(value, 0)


class _Freezer:
    def __init__(self, *, whole_rows: bool) -> None:
        self._left = SIZE
        self._whole_rows = whole_rows

    def freeze(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth > DEPTH or self._left < 0:
            raise NotFrozenError("it is too large")
        kind = type(value)
        if value is None or kind is bool or kind in _EXACT:
            return value
        if kind in _NAMES:
            return self._as(kind, value, depth)
        if kind is ZoneInfo and value.key:
            return ["zone", value.key]
        return self._object(evaluated(value), depth)

    def _as(self, kind: Any, value: Any, depth: int) -> Any:
        """Freezes the value as this type, which its own class may extend."""
        if kind in _EXACT:
            return _EXACT[kind](value)
        name = _NAMES[kind]
        if name in TEXTS:
            return [name, TEXTS[name][1](value), *_zone(value)]
        if name in MAPPINGS:
            return [name, [self._series(pair, depth) for pair in kind.items(value)]]
        return [name, self._series(kind.__iter__(value), depth, name)]

    def _series(self, values: Any, depth: int, name: str = "") -> list[Any]:
        """Sets are sorted, so that the order is the same in each process."""
        frozen = [self.freeze(each, depth + 1) for each in values]
        return sorted(frozen, key=json.dumps) if name.endswith("set") else frozen

    def _object(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, models.Model):
            return self._model(value, depth)
        if kind in _EXACT:
            return value
        path = _path_of(kind)
        if isinstance(value, enum.Enum):
            return _member(kind, path, value)
        extended = _extended(kind)
        frozen: list[Any] = ["object", path, self._state(value, depth)]
        return frozen if extended is object else [*frozen, self._as(extended, value, depth)]

    def _state(self, value: Any, depth: int) -> Any:
        """Returns the attributes of an instance; None if it is its own `__dict__`."""
        attributes, slots = dict_of(value), slot_values_of(value)
        if attributes is value:
            return None
        if not attributes.keys().isdisjoint(slots) or any(type(name) is not str for name in attributes):
            raise NotFrozenError(f"the attributes of a {type(value).__name__} have no names of their own")
        return {name: self.freeze(each, depth + 1) for name, each in (attributes | slots).items()}

    def _model(self, value: models.Model, depth: int) -> Any:
        if not is_row(value):
            return ["unsaved", value._meta.label, self._fields(value, depth)]
        frozen = ["row", value._meta.label, str(value.pk), value._state.db]
        if not self._whole_rows:
            return frozen
        try:
            return [*frozen, self._fields(value, depth)]
        except NotFrozenError:
            return frozen

    def _fields(self, value: models.Model, depth: int) -> dict[str, Any]:
        """Returns the fields and other attributes, but not cached related rows."""
        return {name: self.freeze(each, depth + 1) for name, each in vars(value).items() if name != "_state"}


def _zone(value: Any) -> list[str]:
    """Returns the name of the time zone: the text of a datetime has only an offset."""
    zone = value.tzinfo if isinstance(value, datetime.datetime) else None
    return [zone.key] if type(zone) is ZoneInfo and zone.key else []


def _path_of(kind: type) -> str:
    """Returns the path to import the class from. Raises NotFrozenError if that is not possible."""
    path = f"{kind.__module__}.{kind.__qualname__}"
    try:
        if import_string(path) is kind:
            return path
    except ImportError:
        pass
    raise NotFrozenError(f"{path} cannot be imported by that name")


def _member(kind: Any, path: str, value: enum.Enum) -> Any:
    if kind.__members__.get(value._name_) is value:
        return ["enum", path, value._name_]
    if isinstance(value, enum.Flag) and type(value._value_) is int:
        return ["flag", path, value._value_]
    raise NotFrozenError(f"{path} has no such member")


def _extended(kind: Any) -> type:
    """Returns the container or value type that a class extends; `object` if none.

    Raises NotFrozenError if its instances have other state besides that and their attributes, as classes written in C
    do. Their instances are larger than Python would make them.
    """
    each = kind
    while each is not object and each not in _EXTENDED:
        if _is_larger(each, each.__base__):
            raise NotFrozenError(f"a {kind.__name__} has a state that cannot be read")
        each = each.__base__
    if each is object and not kind.__dictoffset__ and not any(map(slots_of, kind.__mro__)):
        raise NotFrozenError(f"a {kind.__name__} has no readable state")
    return each  # type: ignore[no-any-return]


_WORD = struct.calcsize("P")


def _is_larger(kind: Any, base: Any) -> bool:
    """Whether an instance is larger than one of the base, apart from its slots, attributes and weak references."""
    added = len(slots_of(kind)) + sum(
        getattr(kind, offset) != 0 and getattr(base, offset) == 0 for offset in ("__dictoffset__", "__weakrefoffset__")
    )
    room: int = kind.__basicsize__ - base.__basicsize__ - added * _WORD
    return room > 0 or bool(kind.__itemsize__ != base.__itemsize__)
