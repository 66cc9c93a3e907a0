"""Chooses a serializer for dispatches that workers accept. It only carries sealed text."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kombu import serialization
from kombu.serialization import registry  # type: ignore[attr-defined] # untyped

from broker_core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

USUAL = "json"


@lru_cache(maxsize=4)
def serializer(app: Celery) -> str:
    """Returns JSON if workers of this app accept it, else the serializer of the project's tasks, else any accepted one.

    Raises ConfigurationError if workers accept none of them.
    """
    accepted = app.conf.accept_content
    candidates = [USUAL, app.conf.task_serializer, *(registry.type_to_name.get(each, each) for each in accepted or ())]
    for name in candidates:
        if accepts(accepted, name) and can_write(name):
            return str(name)
    raise ConfigurationError("workers accept no serializer that is available here: see accept_content")


def accepts(content: Iterable[str] | None, name: str) -> bool:
    """Whether a worker with this `accept_content` (serializers or content types) accepts what `name` writes."""
    types = registry.name_to_type
    return content is None or types.get(name, name) in {types.get(each, each) for each in content}


def can_write(name: str) -> bool:
    """Whether the serializer exists and its dependencies are installed."""
    try:
        serialization.dumps([("text",), {}, {"callbacks": None}], serializer=name)
    except Exception:  # noqa: BLE001 - a serializer may raise anything
        return False
    return True
