"""The library of the Common Expression Language (https://cel.dev), without its command line.

Importing `cel` imports `cel.cli` too, and with it typer, rich and prompt_toolkit: 22 MB, and most of its start-up time.
"""

from __future__ import annotations

import sys
from types import ModuleType

_NAME = "cel.cli"
_stand_in = ModuleType(_NAME)
sys.modules.setdefault(_NAME, _stand_in)

import cel  # noqa: E402 - after the stand-in

if sys.modules[_NAME] is _stand_in:
    del sys.modules[_NAME]
    vars(cel).pop("cli", None)

__all__ = ["cel"]
