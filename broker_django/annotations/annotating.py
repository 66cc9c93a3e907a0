"""Annotates a view without changing it: the view stays as it was for every other URL.

A function is copied, any other callable is wrapped, a class is subclassed. The only exception is a decorator on a class
statement, which annotates the class itself: no other code knows it yet, and its methods may call `super(Report, self)`.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import linecache
import sys
from types import CellType, FrameType, FunctionType, MethodType
from typing import Any

_DESCRIPTORS = (staticmethod, classmethod)


class AnnotatedCallable:
    """Wraps a callable object, so that it can be annotated. All other attributes are read from the object."""

    def __init__(self, view: Any) -> None:
        functools.update_wrapper(self, view)
        self.__qualname__ = getattr(view, "__qualname__", type(view).__qualname__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # the object is being copied
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Compiled functions and some wrappers are bound to an instance, as functions are."""
        bind = getattr(type(self.__wrapped__), "__get__", None)
        return self if instance is None or bind is None else bind(self.__wrapped__, instance, owner)


def annotated(view: Any, name: str, value: Any) -> Any:
    """Returns the same view with this attribute. Raises TypeError if it is not a view."""
    if isinstance(view, type):
        return _annotated_class(view, name, value)
    if isinstance(view, _DESCRIPTORS):
        return type(view)(annotated(view.__func__, name, value))
    if type(view) is MethodType:
        return MethodType(annotated(view.__func__, name, value), view.__self__)
    if not callable(view):
        raise TypeError(f"{view!r} is not a view: it cannot be called")
    copied = _copied(view)
    setattr(copied, name, value)
    operation = getattr(view, "_ninja_operation", None)
    if operation is not None and type(view) is FunctionType and _is_being_defined(view):
        operation.view_func = copied  # `@api.get` is below this decorator and has registered the function
    return copied


def _copied(view: Any) -> Any:
    """Returns a copy with its own attributes. Checks the exact type: proxies pretend to be functions."""
    if type(view) is functools.partial:
        return copy.copy(view)
    if type(view) is not FunctionType:
        return AnnotatedCallable(view)
    copied = FunctionType(view.__code__, view.__globals__, view.__name__, view.__defaults__, view.__closure__)
    copied.__kwdefaults__ = view.__kwdefaults__
    return functools.update_wrapper(copied, view)


def _annotated_class(cls: Any, name: str, value: Any) -> Any:
    if _is_being_defined(cls):
        setattr(cls, name, value)
        return cls
    copied = ("__module__", "__qualname__", "__doc__")
    return type(cls)(cls.__name__, (cls,), {**{key: getattr(cls, key) for key in copied}, name: value})


def _is_being_defined(thing: Any) -> bool:
    """Whether the statement that defines this class or function is still running, with its decorators.

    Then its scope is on the stack, at a line of that statement, and contains no reference to it yet.
    """
    module, scope = thing.__module__, thing.__qualname__.rpartition(".")[0]
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == module and _scope_of(frame) == scope:
            known = any(value is thing for value in frame.f_locals.values())
            return not known and _is_within(frame, thing.__qualname__)
        frame = frame.f_back
    return False


def _is_within(frame: FrameType, name: str) -> bool:
    """Whether the frame is at a line of a statement that defines this name. Assumed if there is no source."""
    lines = _definitions(frame.f_code.co_filename)
    return lines is None or any(frame.f_lineno in each for each in lines.get(name, ()))


@functools.lru_cache(maxsize=64)
def _definitions(filename: str) -> dict[str, list[range]] | None:
    """Returns the lines of each statement that defines a class or function, with its decorators, by `__qualname__`.

    Returns None if there is no source. All code that `exec` and `python -c` run has the name `<string>`: its source may
    be that of other code.
    """
    source = "" if filename == "<string>" else "".join(linecache.getlines(filename))
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    found: dict[str, list[range]] = {}
    _collect(tree, "", found)
    return found if source else None


def _collect(node: ast.AST, scope: str, found: dict[str, list[range]]) -> None:
    for child in ast.iter_child_nodes(node):
        inside = scope
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = scope + child.name
            first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
            found.setdefault(name, []).append(range(first, (child.end_lineno or first) + 1))
            inside = f"{name}." if isinstance(child, ast.ClassDef) else f"{name}.<locals>."
        _collect(child, inside, found)


def _scope_of(frame: FrameType) -> str:
    """Returns the prefix of the `__qualname__` of classes and functions that are defined in this frame."""
    code = frame.f_code
    if code.co_name == "<module>":
        return ""
    return f"{code.co_qualname}.<locals>" if code.co_flags & inspect.CO_OPTIMIZED else code.co_qualname


def module_of(function: Any) -> str:
    """Returns the module that contains the code of the function. `functools.wraps` changes `__module__`."""
    name: str = getattr(function, "__globals__", {}).get("__name__", "")
    return name


def closure_of(function: Any) -> dict[str, Any]:
    """Returns the variables of enclosing functions that a function uses, by name."""
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if cells else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True) if cell != _EMPTY}


_EMPTY = CellType()
