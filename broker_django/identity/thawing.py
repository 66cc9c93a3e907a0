"""Restore frozen values."""

from __future__ import annotations

import datetime
import decimal
from collections import OrderedDict
from types import FunctionType
from typing import Any
from zoneinfo import ZoneInfo

from django.apps import apps
from django.utils.module_loading import import_string

from broker_django.identity.freezing import MAPPINGS, SERIES, TEXTS
from broker_django.identity.instances import dict_descriptor_of, dict_of, slots_of


def thaw(frozen: Any) -> Any:
    """Returns the value; a row as it is now. A deleted row is None, or as it was if it was frozen with its fields.

    Raises LookupError, ValueError or TypeError if the code has changed and no longer supports the value.
    """
    if not isinstance(frozen, list):
        return frozen
    name, content = frozen[0], frozen[1]
    if name in TEXTS:
        made = TEXTS[name][2](content)
        return made.astimezone(ZoneInfo(frozen[2])) if len(frozen) > 2 else made
    if name in SERIES:
        return SERIES[name](thaw(each) for each in content)
    if name in MAPPINGS:
        return MAPPINGS[name]((thaw(key), thaw(each)) for key, each in content)
    if name == "zone":
        return ZoneInfo(content)
    if name == "row":
        return _row(*frozen[1:])
    if name in ("enum", "flag"):
        kind = _imported(content)
        return kind[frozen[2]] if name == "enum" else kind(frozen[2])
    if name == "unsaved":
        return _with(apps.get_model(content)(), frozen[2])
    return _made(_imported(content), *frozen[2:])


def _imported(path: str) -> Any:
    try:
        return import_string(path)
    except ImportError as error:
        raise LookupError(f"{path} no longer exists") from error


def _row(label: str, key: str, database: str, fields: dict[str, Any] | None = None) -> Any:
    kind: Any = apps.get_model(label)
    found = kind._default_manager.using(database).filter(pk=key).first()
    if found is not None or fields is None:
        return found
    names = [field.attname for field in kind._meta.concrete_fields if field.attname in fields]
    return _with(kind.from_db(database, names, [thaw(fields[name]) for name in names]), fields)


def _made(kind: Any, state: dict[str, Any] | None, content: Any = None) -> Any:
    made = _empty(kind) if content is None else _extending(kind, thaw(content))
    if state is None:
        dict_descriptor_of(kind).__set__(made, made)
        return made
    return _with(made, state)


def _empty(kind: Any) -> Any:
    """Returns an instance without calling `__init__`, or a `__new__` written in Python: they may require arguments."""
    return object.__new__(kind) if isinstance(kind.__new__, FunctionType) else kind.__new__(kind)


def _extending(kind: Any, content: Any) -> Any:
    """Returns an instance of a class with the content of the type that it extends."""
    extended: Any = type(content)
    if extended in (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal):
        return extended.__new__(kind, *content.__reduce_ex__(2)[1])
    if extended not in (list, set, dict, OrderedDict):
        return extended.__new__(kind, content)
    made = extended.__new__(kind)
    if extended is list:
        list.extend(made, content)
    elif extended is set:
        set.update(made, content)
    else:
        for key, each in content.items():
            extended.__setitem__(made, key, each)
    return made


def _with(made: Any, state: dict[str, Any]) -> Any:
    """Sets attributes without calling the class's `__setattr__` or descriptors."""
    slots = {name: slot for kind in reversed(type(made).__mro__) for name, slot in slots_of(kind).items()}
    attributes = dict_of(made)
    for name, each in state.items():
        if name in slots:
            slots[name].__set__(made, thaw(each))
        else:
            attributes[name] = thaw(each)
    return made
