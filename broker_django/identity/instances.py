"""Read and write the attributes of any instance, past what its class defines."""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from django.utils.functional import LazyObject, Promise


class NotFrozenError(Exception):
    """The value, or something in it, cannot travel: a connection, a lock, a function, a class of a function."""


def evaluated(value: Any) -> Any:
    """What is behind a lazy object."""
    while isinstance(value, LazyObject):
        bool(value)
        value = value._wrapped
    return str(value) if isinstance(value, Promise) else value


def is_row(value: Any) -> bool:
    """Whether a model instance is in its database."""
    return value.pk is not None and not value._state.adding


def attributes_of(value: Any) -> dict[str, Any]:
    """What is in the attributes and the slots of an instance. Raises NotFrozenError."""
    value = evaluated(value)
    attributes = dict_of(value)
    named = {} if attributes is value else dict(attributes)
    return {name: each for name, each in (named | slot_values_of(value)).items() if type(name) is str}


def dict_of(value: Any) -> Any:
    """The `__dict__` of an instance, whatever its class says; an empty one if it has none."""
    found = dict_descriptor_of(type(value))
    return {} if found is None else found.__get__(value)


def dict_descriptor_of(kind: type) -> Any:
    all_of_them = (vars(each).get("__dict__") for each in kind.__mro__)
    return next((each for each in all_of_them if isinstance(each, GetSetDescriptorType | MemberDescriptorType)), None)


def slot_values_of(value: Any) -> dict[str, Any]:
    """What is in the slots of the classes of an instance, by their names, which may be mangled."""
    found: dict[str, Any] = {}
    for name, slot in (each for kind in type(value).__mro__ for each in slots_of(kind).items()):
        try:
            told = slot.__get__(value)
        except AttributeError:  # not set
            continue
        if name in found:
            raise NotFrozenError(f"a {type(value).__name__} has two slots {name}")
        found[name] = told
    return found


def slots_of(kind: type) -> dict[str, Any]:
    members = vars(kind).items() if "__slots__" in vars(kind) else ()
    return {name: each for name, each in members if isinstance(each, MemberDescriptorType)}
