"""What a function or an object was made with, as texts that are the same in every process of the same code.

No address, nothing in the order of a set, and nothing that may change while a process runs: a view that is called
otherwise in another process would be taken for another view.
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
"""How far functions that functions were made with are followed."""
MANY = 50
"""How many members a collection has that is not looked into."""

_SCALARS = (str, bytes, bool, int, float, complex)
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)
_NEVER_REPLACED = (str, bytes, Enum, type, functools.partial, *_FUNCTIONS)
"""What an object keeps as it was made. Numbers may count, and None may wait for something."""


def path_of(named: Any) -> str:
    """The dotted path of a class or function, or of the class of anything else."""
    named = named if hasattr(named, "__qualname__") else type(named)
    qualified: str = named.__qualname__
    last = qualified.rpartition(".")[2]
    name = getattr(named, "__name__", last)  # `api_view` of REST framework gives its classes that of their functions
    return f"{_module(getattr(named, '__module__', ''))}.{qualified if name == last else name}"


def innermost(view: Any) -> Any:
    """What is under decorators, up to the method that is bound to an object or a class."""
    return inspect.unwrap(view, stop=lambda each: type(each) is MethodType)


def _module(name: str) -> str:
    """The name under which others import a module that this process was started with."""
    main = sys.modules.get("__main__")
    if name != "__main__" or main is None:
        return name
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return spec.name if spec else Path(file).stem if file else name


def digest(texts: Iterable[str]) -> str:
    """Tells apart what has the same path; empty for no texts. It gives away no secret that a view was made with."""
    joined = "\n".join(texts)
    return f"#{hashlib.sha256(joined.encode('utf-8', 'replace')).hexdigest()[:8]}" if joined else ""


def said(value: Any, depth: int = DEPTH) -> str:
    """A text for any value: what it is, or, for one that cannot be told, what class it is of."""
    kind = type(value)  # `isinstance` would evaluate a lazy object
    if issubclass(kind, Enum):
        return f"{path_of(kind)}.{value.name}"
    scalar = next((each for each in _SCALARS if issubclass(kind, each)), None)
    if value is None or scalar is not None:
        return "None" if scalar is None else scalar.__repr__(value)
    if issubclass(kind, type):
        return path_of(value)
    if issubclass(kind, functools.partial):
        return said((value.func, value.args, value.keywords), depth)
    if issubclass(kind, _FUNCTIONS):
        of = [path_of(class_of(value.__self__))] if kind is MethodType else []
        return " ".join([path_of(value), *of, *made_of(value, depth - 1)])
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
        return str([f"{said(key, depth - 1)}: {said(values[key], depth - 1)}" for key in values])
    members = [said(value, depth - 1) for value in values]
    return str(sorted(members) if isinstance(values, set | frozenset) else members)


def made_of(view: Any, depth: int = DEPTH) -> list[str]:
    """What tells a function, method or callable object from another of the same path."""
    if depth <= 0:
        return []
    inner = innermost(view)
    if isinstance(inner, functools.partial):
        return [said(inner, depth)]
    if type(inner) is MethodType:
        return [*_kept(inner.__self__, depth), *made_of(inner.__func__, depth)]
    return [*_constants(inner), *_enclosed(inner, depth)] if type(inner) is FunctionType else _kept(inner, depth)


def class_of(owner: Any) -> Any:
    return owner if isinstance(owner, type) else type(owner)


def _kept(owner: Any, depth: int) -> list[str]:
    """What an object keeps under the names of the parameters that it was made with."""
    code = getattr(inspect.unwrap(type(owner).__init__), "__code__", None)
    attributes = getattr(owner, "__dict__", {})
    if code is None or isinstance(owner, type):
        return []
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    kept = {name: attributes[name] for name in names if issubclass(type(attributes.get(name)), _NEVER_REPLACED)}
    return [f"{name}={said(value, depth - 1)}" for name, value in kept.items()]


def _enclosed(function: FunctionType, depth: int) -> list[str]:
    """What a function has of those around it, unless one of them assigns to it again."""
    values = closure_of(function)
    values.pop("__class__", None)
    others = [value for value in values.values() if type(value) is FunctionType]
    changing = frozenset[str]().union(*(_assigned(each.__code__) for each in (function, *others)))
    return [f"{name}={said(value, depth - 1)}" for name, value in sorted(values.items()) if name not in changing]


@functools.lru_cache(maxsize=1_000)
def _assigned(code: CodeType) -> frozenset[str]:
    """The variables of functions around it that this code assigns to, or code in it."""
    inner = (_assigned(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    stored = (each.argval for each in dis.get_instructions(code) if each.opname in {"STORE_DEREF", "DELETE_DEREF"})
    return frozenset(stored).union(*inner)


def _constants(function: FunctionType) -> list[str]:
    """What a lambda says, for all lambdas of a module have one name."""
    return _spoken(function.__code__) if function.__name__ == "<lambda>" else []


@functools.lru_cache(maxsize=1_000)
def _spoken(code: CodeType) -> list[str]:
    """The names and scalars of this code, whatever bytecode a release of Python makes of it."""
    loaded = (
        each.argval for each in dis.get_instructions(code) if "CONST" in each.opname or "SMALL_INT" in each.opname
    )
    return [*code.co_names, *(repr(value) for value in loaded if type(value) in _SCALARS)]
