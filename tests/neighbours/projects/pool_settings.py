import os
from typing import Any

from tests.settings import DATABASES, database

POOLS: dict[str, Any] = {"on": True, "small": {"min_size": 1, "max_size": 4, "timeout": 10}}

SETTINGS = {
    "DATABASES": {**DATABASES, "default": {**database(os.environ), "OPTIONS": {"pool": POOLS[os.environ["POOL"]]}}},
}
