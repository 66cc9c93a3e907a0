"""The Celery app for projects without their own: `celery -A workers.celery worker`."""

from __future__ import annotations

from celery import Celery

from broker_django.messaging.celery_app import project_app
from workers.config import configure

app = Celery("request_broker", set_as_current=project_app() is None)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
configure(app)
