"""The task by which `broker_doctor` checks that a message reaches a process of this worker and runs there."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from broker_django.messaging.probing import QUEUES, TASK


@shared_task(bind=True, name=TASK, ignore_result=True, track_started=False)
def probe(self: Any, reply_to: str) -> None:
    """Answer to a probe queue; it refuses to write to any other queue."""
    if not reply_to.startswith(QUEUES):
        raise ValueError("this is not a probe queue")
    with self.app.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish({"worker": self.request.hostname}, exchange="", routing_key=reply_to, serializer="json")
