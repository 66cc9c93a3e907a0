"""Read the attributes of any instance, whatever its class overrides."""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from django.utils.functional import LazyObject, Promise


class NotFrozenError(Exception):
    """The value, or something in it, cannot be frozen: a connection, a lock, a function, a local class."""


def evaluated(value: Any) -> Any:
    """Returns the object behind a lazy one."""
    while isinstance(value, LazyObject):
        bool(value)
        value = value._wrapped
    return str(value) if isinstance(value, Promise) else value


def is_row(value: Any) -> bool:
    """Whether a model instance is saved."""
    return value.pk is not None and not value._state.adding


def attributes_of(value: Any) -> dict[str, Any]:
    """Returns the attributes and slots of an instance. Raises NotFrozenError."""
    value = evaluated(value)
    attributes = dict_of(value)
    named = {} if attributes is value else dict(attributes)
    return {name: each for name, each in (named | slot_values_of(value)).items() if type(name) is str}


def dict_of(value: Any) -> Any:
    """Returns the `__dict__` of an instance, whatever its class overrides; empty if it has none."""
    found = dict_descriptor_of(type(value))
    return {} if found is None else found.__get__(value)


def dict_descriptor_of(kind: type) -> Any:
    all_of_them = (vars(each).get("__dict__") for each in kind.__mro__)
    return next((each for each in all_of_them if isinstance(each, GetSetDescriptorType | MemberDescriptorType)), None)


def slot_values_of(value: Any) -> dict[str, Any]:
    """Returns the values in the slots of an instance's classes, by name. Names may be mangled."""
    found: dict[str, Any] = {}
    for name, slot in (each for kind in type(value).__mro__ for each in slots_of(kind).items()):
        try:
            value_of_slot = slot.__get__(value)
        except AttributeError:  # not set
            continue
        if name in found:
            raise NotFrozenError(f"a {type(value).__name__} has two slots {name}")
        found[name] = value_of_slot
    return found


def slots_of(kind: type) -> dict[str, Any]:
    members = vars(kind).items() if "__slots__" in vars(kind) else ()
    return {name: each for name, each in members if isinstance(each, MemberDescriptorType)}
