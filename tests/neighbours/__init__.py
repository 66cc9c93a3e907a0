"""Packages that Django projects use beside the broker. Under NEIGHBOURS=1 each of them must be installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import pytest

SETTINGS = "tests.neighbours.settings"
REQUIRED = os.environ.get("NEIGHBOURS", "0") not in {"", "0"}


def needs(*modules: str, in_process: bool = True) -> Any:
    """Skip the calling test module if a package is not installed, or fail under NEIGHBOURS=1.

    in_process: whether the apps have to be those of this process, too.
    """
    if in_process and os.environ.get("DJANGO_SETTINGS_MODULE") != SETTINGS:
        pytest.skip(f"DJANGO_SETTINGS_MODULE is not {SETTINGS}", allow_module_level=True)
    for module in modules:
        if not REQUIRED and importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed", allow_module_level=True)
        importlib.import_module(module)
