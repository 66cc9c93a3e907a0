"""Internals of other libraries that the broker uses. `python -m tests.internals` prints the files."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("broker_core", "broker_django", "workers")
ROOT = Path(__file__).parent.parent

DOCUMENTED = frozenset({"_meta", "_state", "_default_manager", "_base_manager"})
"""Names with an underscore that Django's documentation explains."""

INTERNAL_MODULES = (
    "amqp",
    "billiard",
    "celery._state",
    "celery.backends",
    "celery.concurrency",
    "celery.worker",
    "django.core.handlers",
    "django.db.models.sql",
    "django.template.base",
    "django.template.defaulttags",
    "django.test.client",
    "django.test.signals",
    "django.test.utils",
    "django.utils.autoreload",
    "django_celery_results",
    "kombu.transport",
    "redis.connection",
)
"""Modules that are documented in parts or not at all, or promise nothing between minor versions."""

INTERNAL_NAMES = frozenset(
    {"cel.cli", "context_to_thread_executor", "django.test.client", "executors", "thread_sensitive_context"}
)
"""Other names that promise nothing, found as attributes and in strings."""


def uses() -> dict[str, set[str]]:
    """Internal names, with the files that use them: attributes, what is imported, and what a class replaces."""
    found: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" not in path.parts:
                for name in _in_source(ast.parse(path.read_text())):
                    found[name].add(str(path.relative_to(ROOT)))
    for name, place in _inherited():
        found[name].add(place)
    return found


def _in_source(tree: ast.Module) -> Iterator[str]:
    own = set(_defined(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name) if _is_private(name):
                yield name
            case ast.Attribute(attr=name) if _is_private(name) and name not in own:
                yield name
            case ast.Attribute(attr=str(name)) | ast.Constant(value=str(name)) if name in INTERNAL_NAMES:
                yield name
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, ast.Constant(value=name), *_]):
                if isinstance(name, str) and _is_private(name) and name not in own:
                    yield name
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases if _is_internal(alias.name))
            case ast.ImportFrom(module=str(module), names=aliases):
                whole = [f"{module}.{alias.name}" for alias in aliases]
                yield from (name for name in whole if _is_internal(name))


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_") and name not in DOCUMENTED


def _is_internal(name: str) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in INTERNAL_MODULES)


def _inherited() -> Iterator[tuple[str, str]]:
    """Internal classes that ours derive from, and their private names that ours replace."""
    for module in _modules():
        for ours in vars(module).values():
            if not inspect.isclass(ours) or ours.__module__ != module.__name__:
                continue
            place = module.__name__.replace(".", "/") + ".py"
            for base in ours.__mro__[1:]:
                if base.__module__.partition(".")[0] in (*PACKAGES, "builtins", "typing", "abc"):
                    continue
                if _is_internal(base.__module__) and base in ours.__bases__:
                    yield f"{base.__module__}.{base.__qualname__}", place
                yield from ((name, place) for name in vars(ours) if _is_private(name) and _is_replaced(base, name))


def _is_replaced(base: type, name: str) -> bool:
    # Django and Python give every model and named tuple attributes of their own.
    return name in vars(base) and not name.startswith(("_abc_", "_field", "_make", "_replace"))


def _modules() -> Iterator[object]:
    for package in PACKAGES:
        found = importlib.import_module(package)
        yield found
        for each in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not each.name.endswith((".__main__", ".static_files")) and ".migrations" not in each.name:
                yield importlib.import_module(each.name)


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    for name, places in sorted(uses().items()):
        print(f"{name}: {', '.join(sorted(places))}")
