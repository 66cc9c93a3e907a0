from __future__ import annotations

import pytest
from celery import Celery

from broker_core.errors import ConfigurationError
from broker_django.messaging.serialization import serializer


def app_with(**values):
    app = Celery("project", set_as_current=False)
    app.conf.update(values)
    return app


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ({}, "json"),
        ({"accept_content": None}, "json"),
        ({"accept_content": ["yaml", "json"], "task_serializer": "yaml"}, "json"),
        ({"accept_content": ["application/json"]}, "json"),
        ({"accept_content": ["pickle", "yaml"], "task_serializer": "yaml"}, "yaml"),
        ({"accept_content": ["application/x-yaml"]}, "yaml"),
        ({"accept_content": ("nonsense", "pickle")}, "pickle"),
    ],
)
def test_dispatches_use_a_serializer_that_workers_accept(values, chosen):
    assert serializer(app_with(**values)) == chosen


@pytest.mark.parametrize("content", [[], ["nonsense"], ["application/x-nonsense"]])
def test_there_may_be_nothing_that_workers_accept(content):
    with pytest.raises(ConfigurationError, match="accept_content"):
        serializer(app_with(accept_content=content))
