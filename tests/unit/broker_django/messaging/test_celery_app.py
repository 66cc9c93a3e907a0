"""Which Celery app is used, each in a separate process, because an app stays current as long as its process lives."""

from __future__ import annotations

import os
import sys

from tests.containers import ROOT
from tests.processes import finished

START = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
from celery import Celery, current_app
django.setup()
"""
PROJECT = 'project = Celery("project")\n'


def output(source: str) -> str:
    process = finished([sys.executable, "-c", START + source], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_the_fallback_leaves_the_projects_app_current():
    source = "from broker_django.messaging.celery_app import get_app\nprint(get_app().main, current_app.main)"
    assert output(PROJECT + source) == "request_broker project"
    assert output(source) == "request_broker request_broker"


def test_the_fallback_sees_an_app_that_another_thread_made():
    source = """
from threading import Thread
from broker_django.messaging.celery_app import get_app
def ask():
    get_app()
    print(current_app.main)
thread = Thread(target=ask)
thread.start()
thread.join()
"""
    assert output(PROJECT + source) != "request_broker"


def test_a_projects_app_that_is_not_configured_is_reported_every_time():
    source = """
from broker_django.checks.celery import check_celery
print([[message.id for message in check_celery()] for _ in range(2)])
"""
    assert output(PROJECT + source) == "[['request_broker.W003'], ['request_broker.W003']]"
    assert output(source) == "[[], []]"
