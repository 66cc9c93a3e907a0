"""Whether workers take tasks: each runs a probe that comes on a queue of its own, and answers on another."""

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
"""The name of the task. The broker names it; the workers have it."""

CONSUME = "broker_probe"
CANCEL = "broker_probe_end"
"""The names of the remote control commands that have a worker read a queue of probes. The workers have them too."""

QUEUES = "request-broker-probe-"
"""What the names of these queues begin with, so that a worker lets a probe start in any process that is free."""

ANSWERS_WITHIN = 2.0
"""Seconds in which a worker says that it reads the queue, or reads it no more."""


def queue_of(name: str) -> Queue:
    """Both sides declare it in the same way; it goes by itself if neither deletes it."""
    return Queue(name, Exchange(""), routing_key=name, expires=60)


def probe(app: Celery, workers: Iterable[str], seconds: float) -> dict[str, float | None]:
    """For each of these workers that can be probed, in how many seconds it answered; None if it did not.

    Raises whatever the message broker raises.
    """
    queues = {worker: queue_of(QUEUES + uuid.uuid4().hex) for worker in workers}
    with own_connection(app) as connection, _consumed(app, connection, queues) as read:
        answers = connection.SimpleBuffer(QUEUES + uuid.uuid4().hex, queue_opts={"expires": 60})
        started = time.monotonic()
        for worker in read:
            _send(app, connection, queues[worker], answers.queue.name)
        took: dict[str, float | None] = dict.fromkeys(read)
        while None in took.values() and (left := started + seconds - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                answer = answers.get(timeout=left)
                answer.ack()
                if answer.payload.get("worker") in took:
                    took[answer.payload["worker"]] = time.monotonic() - started
        answers.close()
        _delete(connection, answers.queue)
        return took


@contextlib.contextmanager
def _consumed(app: Celery, connection: Connection, queues: dict[str, Queue]) -> Iterator[list[str]]:
    """The workers that read their queues while the block runs; an older one does not know how to."""
    read: list[str] = []
    try:
        for worker, queue in queues.items():
            if _told(app, CONSUME, worker, queue):
                read.append(worker)
        yield read
    finally:
        for worker in read:
            if _told(app, CANCEL, worker, queues[worker]):  # RabbitMQ would cut off a worker that still reads it
                _delete(connection, queues[worker])


def _told(app: Celery, command: str, worker: str, queue: Queue) -> bool:
    """Whether the worker says that it has done so."""
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
