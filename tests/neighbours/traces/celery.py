"""The project's own Celery app."""

import os

from celery import Celery, signals

from workers.config import configure

app = Celery("traces")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
configure(app)

if os.environ["TRACER"] == "opentelemetry":
    from tests.neighbours.traces.instrumented import instrument

    signals.worker_init.connect(lambda **_: instrument(), weak=False)
