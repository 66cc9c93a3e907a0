"""Sentry support costs nothing in a project without it."""

from __future__ import annotations

import sys

import pytest
from django.core.signals import request_started
from django.test import Client

from broker_django.operations import sentry


def looks() -> bool:
    return any(receiver[0][0] == sentry._FIRST_REQUEST for receiver in request_started.receivers)


@pytest.mark.usefixtures("everything_accepted")
def test_sentry_is_detected_only_at_the_first_request() -> None:
    before = set(sys.modules)
    sentry.watch_from_first_request()
    assert looks()
    Client().get("/public/")
    assert not looks()
    assert not {name for name in set(sys.modules) - before if name.startswith(("sentry_sdk", "opentelemetry"))}
