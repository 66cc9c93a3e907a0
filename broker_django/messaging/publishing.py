"""Delivery to a queue: publish a sealed dispatch with bounded patience, and none while the message broker is down."""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kombu import pools
from kombu.exceptions import LimitExceeded, OperationalError

from broker_core.breakers import CircuitBreaker
from broker_core.errors import ConfigurationError
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.context import WITNESS
from broker_django.messaging import rabbitmq, redis, tracing
from broker_django.messaging.celery_app import AMQP_SCHEMES, TASK, broker_urls, get_app, scheme_of
from broker_django.messaging.publish_limits import rooms
from broker_django.messaging.sealing import argument_repr, task_argument
from broker_django.messaging.serialization import serializer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from django.http.response import HttpResponseBase
    from kombu import Connection, Queue

    from broker_core.policies import QueuePolicy
    from broker_django.models import DispatchRecord

logger = logging.getLogger("broker_django.messaging.publishing")

RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
"""One more try, on a new connection: the pooled one may have been cut while it was idle."""

SHARE_OF_A_TRY = 0.25
"""The part of PUBLISH_TIMEOUT for which an answer is waited for: of a server that says nothing three times, since kombu
tries twice to connect anew.
"""
SHARE_OF_WAITING = 0.15
"""The part of it for which a connection of the pool is waited for. With three such answers a tenth is left."""

NOT_FOUND = "404"
"""What AMQP says of a queue that is not there, and kombu of one on Redis."""

PUBLISHED = "broker_published"
"""The header of a message that says when it was published, as the ledger does: what a worker is handed tells it that
whatever was published to the same queue before has left it.
"""

TRANSPORTS = {
    "redis": f"{redis.__name__}:{redis.Transport.__name__}",
    "rediss": f"{redis.__name__}:{redis.Transport.__name__}",
    "sentinel": f"{redis.__name__}:{redis.SentinelTransport.__name__}",
    "amqp": f"{rabbitmq.__name__}:{rabbitmq.Transport.__name__}",
    "pyamqp": f"{rabbitmq.__name__}:{rabbitmq.Transport.__name__}",
    "amqps": f"{rabbitmq.__name__}:{rabbitmq.SSLTransport.__name__}",
}
"""The transport that dispatches are published with, for each scheme of a URL."""

breaker = CircuitBreaker(reset_after=5.0)
"""Opens when the message broker does not take a dispatch: the next ones wait in the ledger at once."""

HARD_LIMIT_MARGIN = 10
"""Seconds between the limit that a view can still clean up after and the one that ends its process."""


def publish(record: DispatchRecord, policy: QueuePolicy) -> bool:
    """Hand the dispatch to the message broker: whether it took it. If not, the row stays and waits."""
    failures = breaker.failures
    if not breaker.allows():
        return False
    dispatch_id = str(record.pk)
    try:
        _send(get_app(), record, policy, failures)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the row is there and the client gets its 202
        _note_failure(error)
        logger.warning(
            "Dispatch %s waits in the ledger, the message broker did not take it: %s",
            dispatch_id,
            redacted(error),
            extra={"dispatch_id": dispatch_id, "queue": record.queue},
        )
        return False
    breaker.succeeded()
    return True


def _note_failure(error: Exception) -> None:
    """Only a message broker that is out of reach is left alone: another queue may do where one is refused."""
    if isinstance(error, (KeyError, ConfigurationError, LimitExceeded)):  # no such queue, no serializer, no connection
        return
    if isinstance(error.__cause__ or error, get_app().connection_for_write().channel_errors):
        breaker.succeeded()
    else:
        breaker.failed()


def _send(app: Celery, record: DispatchRecord, policy: QueuePolicy, failures: int) -> None:
    """`failures` is how often the breaker had failed before."""
    dispatch_id = str(record.pk)
    message = app.amqp.create_task_message(
        dispatch_id,
        TASK,
        args=(task_argument(record),),
        kwargs={},
        argsrepr=argument_repr(record),
        kwargsrepr="{}",
        shadow=shadow(record),
        soft_time_limit=policy.time_limit,
        time_limit=policy.time_limit + HARD_LIMIT_MARGIN,
        create_sent_event=app.conf.task_send_sent_event,
        ignore_result=True,
    )
    if record.published_at is not None:
        message.headers[PUBLISHED] = record.published_at.timestamp()
    fields = tracing.headers_of(record)
    tracing.add_to_message(message.headers, fields)
    tracing.in_trace(fields, lambda: _send_message(app, message, record.queue, policy, failures))


def _send_message(app: Celery, message: Any, name: str, policy: QueuePolicy, failures: int) -> None:
    queue = app.amqp.queues[policy.celery_queue]
    with _producer(app, conf.PUBLISH_TIMEOUT * SHARE_OF_WAITING) as producer:
        if breaker.failures != failures:
            raise OperationalError("somebody else has found the message broker down meanwhile")
        app.amqp.send_task_message(
            producer,
            TASK,
            message,
            queue=queue,
            declare=_undeclared(producer.connection, queue),
            serializer=serializer(app),
            retry=True,
            retry_policy=RETRY_POLICY,
            timeout=conf.PUBLISH_TIMEOUT * SHARE_OF_A_TRY,
        )
        _note_published(name, policy, producer, queue)


def _note_published(name: str, policy: QueuePolicy, producer: Any, queue: Queue) -> None:
    """The message is there: nothing that goes wrong afterwards says otherwise."""
    try:
        rooms.note(name, policy, lambda: _message_count(producer.connection, queue, producer.channel))
    except Exception as error:  # noqa: BLE001 - every transport has errors of its own
        logger.info("The message broker does not tell how long %s is: %s", policy.celery_queue, redacted(error))


def waiting_messages(policy: QueuePolicy) -> int | None:
    """How many messages wait in the Celery queue; None where the message broker does not tell."""
    app = get_app()
    try:
        queue = app.amqp.queues[policy.celery_queue]
        with _producer(app, conf.PUBLISH_TIMEOUT) as producer:
            producer.connection.ensure_connection(**RETRY_POLICY)
            return _message_count(producer.connection, queue)
    except Exception as error:  # noqa: BLE001 - every transport has errors of its own
        logger.info("The message broker does not tell how long %s is: %s", policy.celery_queue, redacted(error))
        return None


def _message_count(connection: Any, queue: Queue, channel: Any = None) -> int:
    """With the channel that a message was just published on, if one is given: there the queue is there."""
    with connection.channel() if channel is None else nullcontext(channel) as own:
        try:
            declared: Any = queue.bind(own).queue_declare(passive=True)
            return int(declared.message_count)
        except connection.channel_errors as error:
            if str(getattr(error, "reply_code", "")) != NOT_FOUND:
                raise
            return 0  # on Redis, an empty queue is none


def _undeclared(connection: Connection, queue: Queue) -> list[Queue]:
    """The queue, or nothing on Redis where this connection has declared it: kombu is slow to find that out.

    Elsewhere kombu has to have it at hand, for another try on a new connection.
    """
    known = connection.transport.driver_type == "redis" and hash(queue) in (connection.declared_entities or ())
    return [] if known else [queue]


@contextmanager
def _producer(app: Celery, timeout: float) -> Iterator[Any]:
    """A producer of the pool, for which `timeout` seconds are waited.

    If anything fails, its connection is dropped. kombu would close it politely, and wait for an answer without limit.
    """
    with _producers(app, app.pool).acquire(block=True, timeout=timeout) as producer:
        try:
            yield producer
        except BaseException:
            producer.connection.collect()
            raise


@lru_cache(maxsize=4)
def _producers(app: Celery, _connections: Any) -> Any:
    """The app's pool of producers, or one of as many whose connections are of our own.

    `_connections` is the app's pool of connections. Celery makes another after a fork by multiprocessing, and so are
    these; after any other fork redis-py itself connects anew.
    """
    return pools.producers[own_connection(app)] if _own_options(app) else app.amqp.producer_pool


def own_connection(app: Celery, **options: Any) -> Connection:
    """A connection to write with: to Redis one that keeps its client, to RabbitMQ one that confirms and never hangs."""
    return app.connection_for_write(**_own_options(app), **options)


def _own_options(app: Celery) -> dict[str, Any]:
    schemes = {scheme_of(url) for url in broker_urls(app.conf.broker_write_url or "amqp://")}
    own: dict[str, Any] = {}
    if not schemes.isdisjoint(AMQP_SCHEMES):
        own["transport_options"] = _confirmed(app)
    if not app.conf.broker_transport and len(schemes) == 1 and schemes <= TRANSPORTS.keys():
        own["transport"] = TRANSPORTS[schemes.pop()]
        own["ssl"] = app.connection_for_write().ssl  # kombu goes by the name `rediss`
    return own


def _confirmed(app: Celery) -> dict[str, Any]:
    """Options of py-amqp: RabbitMQ says that it has a dispatch, and no answer is waited for without limit.

    Other connections have nothing confirmed, for a worker's main loop would wait while RabbitMQ's alarm lasts.
    """
    timeout = conf.PUBLISH_TIMEOUT * SHARE_OF_A_TRY
    timeouts = {"read_timeout": timeout, "write_timeout": timeout}
    return {"confirm_publish": True, **timeouts, **app.conf.broker_transport_options}


def run_eagerly(app: Celery, record: DispatchRecord, policy: QueuePolicy, *, held: bool) -> HttpResponseBase | None:
    """What `task_always_eager` asks for: the replay in this process, now.

    Gives the view's own response, not yet closed, where a client is held for it.
    """
    if TASK not in app.tasks:
        app.loader.import_default_modules()
    seen: list[HttpResponseBase] = []
    token = WITNESS.set(seen if held else None)
    try:
        app.tasks[TASK].apply(
            args=(task_argument(record),),
            task_id=str(record.pk),
            routing_key=policy.celery_queue,
            headers=tracing.headers_of(record) or None,
            throw=False,
        )
    finally:
        WITNESS.reset(token)
    return seen[-1] if seen else None


def shadow(record: DispatchRecord) -> str:
    """The name that Flower shows: the route, which is readable and holds none of the client's values."""
    return f"{record.method} {record.route} ({record.queue})"
