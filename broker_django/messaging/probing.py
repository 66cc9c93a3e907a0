"""Checks that workers run tasks: each runs a probe from a queue of its own, and answers on another queue."""

from __future__ import annotations

import contextlib
import time
import uuid
from queue import Empty
from typing import TYPE_CHECKING, Any

from kombu import Exchange, Queue

from broker_django.messaging.publishing import own_connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery import Celery
    from kombu import Connection

TASK = "request_broker.probe"
"""The name of the task. The workers define it."""

CONSUME = "broker_probe"
CANCEL = "broker_probe_end"
"""The names of the remote control commands that make a worker consume a probe queue, or stop.

The workers define them.
"""

QUEUES = "request-broker-probe-"
"""The prefix of these queues' names: a worker starts a probe in any free process."""

ANSWERS_WITHIN = 2.0
"""Seconds in which a worker must confirm that it consumes the queue, or has stopped."""


def queue_of(name: str) -> Queue:
    """Both sides declare the queue in the same way. It expires if neither deletes it."""
    return Queue(name, Exchange(""), routing_key=name, expires=60)


def probe(app: Celery, workers: Iterable[str], seconds: float) -> dict[str, float | None]:
    """Returns the response time of each worker that can be probed, in seconds; None if it did not answer.

    Raises whatever the message broker raises.
    """
    queues = {worker: queue_of(QUEUES + uuid.uuid4().hex) for worker in workers}
    with own_connection(app) as connection, _consumed(app, connection, queues) as probed:
        answers = connection.SimpleBuffer(QUEUES + uuid.uuid4().hex, queue_opts={"expires": 60})
        started = time.monotonic()
        for worker in probed:
            _send(app, connection, queues[worker], answers.queue.name)
        times: dict[str, float | None] = dict.fromkeys(probed)
        while None in times.values() and (left := started + seconds - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                answer = answers.get(timeout=left)
                answer.ack()
                if answer.payload.get("worker") in times:
                    times[answer.payload["worker"]] = time.monotonic() - started
        answers.close()
        _delete(connection, answers.queue)
        return times


@contextlib.contextmanager
def _consumed(app: Celery, connection: Connection, queues: dict[str, Queue]) -> Iterator[list[str]]:
    """Yields the workers that consume their queues while the block runs. Older workers do not know the command."""
    probed: list[str] = []
    try:
        for worker, queue in queues.items():
            if _confirms(app, CONSUME, worker, queue):
                probed.append(worker)
        yield probed
    finally:
        for worker in probed:
            if _confirms(app, CANCEL, worker, queues[worker]):  # RabbitMQ disconnects a worker that still consumes it
                _delete(connection, queues[worker])


def _confirms(app: Celery, command: str, worker: str, queue: Queue) -> bool:
    """Send the command. Returns whether the worker confirms it."""
    replies: Any = app.control.broadcast(
        command, {"queue": queue.name}, [worker], reply=True, timeout=ANSWERS_WITHIN, limit=1
    )
    return any("ok" in reply.get(worker, {}) for reply in replies or ())


def _delete(connection: Connection, queue: Queue) -> None:
    with connection.channel() as channel:
        queue(channel).delete()


def _send(app: Celery, connection: Connection, queue: Queue, reply_to: str) -> None:
    options: Any = {"queue": queue, "expires": 60, "ignore_result": True}
    app.send_task(TASK, (reply_to,), connection=connection, **options)
