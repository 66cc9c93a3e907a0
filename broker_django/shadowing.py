"""Top-level packages of the broker that a project can hide with packages of its own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

SITE = Path(__file__).parent.parent
HINT = "Rename the project's package, or move it into another one: the request broker needs the name."


def shadow_of(package: str) -> Path | None:
    """Returns the file that Python imports instead of the broker's package, or None if it imports the right one."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    ours = SITE / package / "__init__.py"
    found = Path(spec.origin)
    return None if found.resolve() == ours.resolve() else found


def require_own(package: str) -> None:
    """Raises ImproperlyConfigured if the project hides the broker's package."""
    if shadow := shadow_of(package):
        raise ImproperlyConfigured(f"{describe(package, shadow)} {HINT}")


def describe(package: str, shadow: Path) -> str:
    return f"{shadow} hides the package {package!r} of the request broker."
