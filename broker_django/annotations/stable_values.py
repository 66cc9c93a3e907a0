"""Describes what a function or an object was made with, with the same text in every process that runs the same code.

No addresses, no set order, and nothing that may change while a process runs: a worker would take a view with another
description for another view.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import re
import sys
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from django.db.models import Manager, QuerySet

from broker_django.annotations.annotating import closure_of

if TYPE_CHECKING:
    from collections.abc import Iterable

DEPTH = 3
"""How deep functions in closures are followed."""
MANY = 50
"""Collections with more members are only described by their class."""

_SCALARS = (str, bytes, bool, int, float, complex)
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)
_NEVER_REPLACED = (str, bytes, Enum, type, functools.partial, *_FUNCTIONS)
"""The types of attributes that stay as the object was made. Numbers may be counters, and None may be set later."""


def path_of(named: Any) -> str:
    """Returns the dotted path of a class or function; for any other object, that of its class."""
    named = named if hasattr(named, "__qualname__") else type(named)
    qualified: str = named.__qualname__
    last = qualified.rpartition(".")[2]
    name = getattr(named, "__name__", last)  # REST framework's `api_view` names its classes after their functions
    return f"{_module(getattr(named, '__module__', ''))}.{qualified if name == last else name}"


def innermost(view: Any) -> Any:
    """Returns what is under decorators, up to a bound method."""
    return inspect.unwrap(view, stop=lambda each: type(each) is MethodType)


def _module(name: str) -> str:
    """Returns the name by which others import a module, even if this process was started with it."""
    main = sys.modules.get("__main__")
    if name != "__main__" or main is None:
        return name
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return spec.name if spec else Path(file).stem if file else name


def digest(texts: Iterable[str]) -> str:
    """Returns a suffix that distinguishes views of the same path; empty if there are no texts.

    It reveals no secrets.
    """
    joined = "\n".join(texts)
    return f"#{hashlib.sha256(joined.encode('utf-8', 'replace')).hexdigest()[:8]}" if joined else ""


def describe(value: Any, depth: int = DEPTH) -> str:
    """Returns a text for any value: the value, or its class if the value has no stable text."""
    kind = type(value)  # `isinstance` would evaluate a lazy object
    if issubclass(kind, Enum):
        return f"{path_of(kind)}.{value.name}"
    scalar = next((each for each in _SCALARS if issubclass(kind, each)), None)
    if value is None or scalar is not None:
        return "None" if scalar is None else scalar.__repr__(value)
    if issubclass(kind, type):
        return path_of(value)
    if issubclass(kind, functools.partial):
        return describe((value.func, value.args, value.keywords), depth)
    if issubclass(kind, _FUNCTIONS):
        of = [path_of(class_of(value.__self__))] if kind is MethodType else []
        return " ".join([path_of(value), *of, *distinguishing_values(value, depth - 1)])
    if issubclass(kind, re.Pattern):
        return repr(value.pattern)
    if issubclass(kind, QuerySet | Manager):
        return f"{path_of(kind)} of {path_of(value.model)}"
    if issubclass(kind, tuple | list | set | frozenset | dict):
        return _collection(value, depth)
    return path_of(kind)


def _collection(values: Any, depth: int) -> str:
    if depth <= 0 or len(values) > MANY:
        return path_of(type(values))
    if isinstance(values, dict):
        return str([f"{describe(key, depth - 1)}: {describe(values[key], depth - 1)}" for key in values])
    members = [describe(value, depth - 1) for value in values]
    return str(sorted(members) if isinstance(values, set | frozenset) else members)


def distinguishing_values(view: Any, depth: int = DEPTH) -> list[str]:
    """Returns the values that distinguish a function, method or callable object from others of the same path."""
    if depth <= 0:
        return []
    inner = innermost(view)
    if isinstance(inner, functools.partial):
        return [describe(inner, depth)]
    if type(inner) is MethodType:
        return [*_attributes(inner.__self__, depth), *distinguishing_values(inner.__func__, depth)]
    return (
        [*_constants(inner), *_closure_values(inner, depth)]
        if type(inner) is FunctionType
        else _attributes(inner, depth)
    )


def class_of(owner: Any) -> Any:
    return owner if isinstance(owner, type) else type(owner)


def _attributes(owner: Any, depth: int) -> list[str]:
    """Returns the attributes of an object that have the names of its constructor's parameters."""
    code = getattr(inspect.unwrap(type(owner).__init__), "__code__", None)
    attributes = getattr(owner, "__dict__", {})
    if code is None or isinstance(owner, type):
        return []
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    kept = {name: attributes[name] for name in names if issubclass(type(attributes.get(name)), _NEVER_REPLACED)}
    return [f"{name}={describe(value, depth - 1)}" for name, value in kept.items()]


def _closure_values(function: FunctionType, depth: int) -> list[str]:
    """Returns the closure of a function, without variables that are assigned again."""
    values = closure_of(function)
    values.pop("__class__", None)
    others = [value for value in values.values() if type(value) is FunctionType]
    changing = frozenset[str]().union(*(_assigned(each.__code__) for each in (function, *others)))
    return [f"{name}={describe(value, depth - 1)}" for name, value in sorted(values.items()) if name not in changing]


@functools.lru_cache(maxsize=1_000)
def _assigned(code: CodeType) -> frozenset[str]:
    """Returns the variables of enclosing functions that this code assigns to, including code inside it."""
    inner = (_assigned(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    stored = (each.argval for each in dis.get_instructions(code) if each.opname in {"STORE_DEREF", "DELETE_DEREF"})
    return frozenset(stored).union(*inner)


def _constants(function: FunctionType) -> list[str]:
    """Returns the contents of a lambda: all lambdas of a module have the same name."""
    return _code_values(function.__code__) if function.__name__ == "<lambda>" else []


@functools.lru_cache(maxsize=1_000)
def _code_values(code: CodeType) -> list[str]:
    """Returns the names and scalars in this code, independent of the bytecode of the Python release."""
    loaded = (
        each.argval for each in dis.get_instructions(code) if "CONST" in each.opname or "SMALL_INT" in each.opname
    )
    return [*code.co_names, *(repr(value) for value in loaded if type(value) in _SCALARS)]
