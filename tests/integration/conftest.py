"""Requests through Django's test client. Celery is eager: a request is replayed before its 202 is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.test import AsyncClient, override_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT = {name: {"wait": 5} for name in ("payment", "realtime", "bulk")}


@pytest.fixture(autouse=True)
def database(db: Any) -> None:
    """Every test here writes dispatches."""


@pytest.fixture
def everything_queued() -> Iterator[None]:
    """Every request is queued, and the client is held for the answer."""
    with override_settings(REQUEST_BROKER={"QUEUES": WAIT, "RULES": [{"when": "true", "queue": "bulk"}]}):
        yield


@pytest.fixture
def everything_accepted() -> Iterator[None]:
    """Every request is queued and answered with a 202."""
    with override_settings(REQUEST_BROKER={"RULES": [{"when": "true", "queue": "bulk"}]}):
        yield


@pytest.fixture
def async_client() -> AsyncClient:
    return AsyncClient()
