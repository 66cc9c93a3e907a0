"""Publishes sealed dispatches, with short timeouts, and not at all while the message broker is down."""

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
from broker_django.context import EAGER_RESPONSES
from broker_django.messaging import rabbitmq, redis, tracing
from broker_django.messaging.celery_app import AMQP_SCHEMES, TASK, broker_urls, get_app, scheme_of
from broker_django.messaging.publish_limits import publish_limits
from broker_django.messaging.sealing import argument_repr, task_argument
from broker_django.messaging.serialization import serializer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from django.http.response import HttpResponseBase
    from kombu import Connection, Queue

    from broker_core.dispatches import Dispatch, SealedRequest
    from broker_core.policies import QueuePolicy

logger = logging.getLogger("broker_django.messaging.publishing")

RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
"""One retry, on a new connection: an idle connection of the pool may have been closed by the server."""

SHARE_OF_A_TRY = 0.25
"""The part of PUBLISH_TIMEOUT for each wait for a response. A silent server causes three: kombu tries to reconnect
twice.
"""
SHARE_OF_WAITING = 0.15
"""The part of PUBLISH_TIMEOUT for getting a connection from the pool. With three responses, a tenth is left."""

NOT_FOUND = "404"
"""The reply code of AMQP, and of kombu for Redis, if a queue does not exist."""

PUBLISHED = "broker_published"
"""The header with the time of publication, as in the ledger. When a worker receives the message, everything that was
published to the same queue earlier has left it.
"""

TRANSPORTS = {
    "redis": f"{redis.__name__}:{redis.Transport.__name__}",
    "rediss": f"{redis.__name__}:{redis.Transport.__name__}",
    "sentinel": f"{redis.__name__}:{redis.SentinelTransport.__name__}",
    "amqp": f"{rabbitmq.__name__}:{rabbitmq.Transport.__name__}",
    "pyamqp": f"{rabbitmq.__name__}:{rabbitmq.Transport.__name__}",
    "amqps": f"{rabbitmq.__name__}:{rabbitmq.SSLTransport.__name__}",
}
"""The transport for publishing dispatches, by scheme of the URL."""

breaker = CircuitBreaker(reset_after=5.0)
"""Opens when the message broker does not accept a dispatch. Then dispatches stay in the ledger without a try."""

HARD_LIMIT_MARGIN = 10
"""Seconds between the soft time limit, after which a view can clean up, and the hard one, which ends the process."""


def publish(request: SealedRequest, policy: QueuePolicy) -> bool:
    """Publish the dispatch. Returns False if the message broker does not accept it; then it waits in the ledger."""
    failures = breaker.failures
    if not breaker.allows():
        return False
    dispatch_id = str(request.dispatch.id)
    try:
        _send(get_app(), request, policy, failures)
    except Exception as error:  # noqa: BLE001 - the dispatch is in the ledger, and the client gets its 202
        _record_failure(error)
        logger.warning(
            "Dispatch %s waits in the ledger because the message broker did not accept it: %s",
            dispatch_id,
            redacted(error),
            extra={"dispatch_id": dispatch_id, "queue": request.dispatch.queue},
        )
        return False
    breaker.succeeded()
    return True


def _record_failure(error: Exception) -> None:
    """Open the breaker only if the message broker is not reachable: if one queue is refused, others may work."""
    if isinstance(error, (KeyError, ConfigurationError, LimitExceeded)):  # no queue, no serializer, no free connection
        return
    if isinstance(error.__cause__ or error, get_app().connection_for_write().channel_errors):
        breaker.succeeded()
    else:
        breaker.failed()


def _send(app: Celery, request: SealedRequest, policy: QueuePolicy, failures: int) -> None:
    """`failures` is the breaker's number of failures before this call."""
    dispatch = request.dispatch
    message = app.amqp.create_task_message(
        str(dispatch.id),
        TASK,
        args=(task_argument(request),),
        kwargs={},
        argsrepr=argument_repr(request),
        kwargsrepr="{}",
        shadow=shadow(dispatch),
        soft_time_limit=policy.time_limit,
        time_limit=policy.time_limit + HARD_LIMIT_MARGIN,
        create_sent_event=app.conf.task_send_sent_event,
        ignore_result=True,
    )
    if dispatch.published_at is not None:
        message.headers[PUBLISHED] = dispatch.published_at.timestamp()
    fields = tracing.headers_of(dispatch)
    tracing.add_to_message(message.headers, fields)
    tracing.in_trace(fields, lambda: _send_message(app, message, dispatch.queue, policy, failures))


def _send_message(app: Celery, message: Any, name: str, policy: QueuePolicy, failures: int) -> None:
    queue = app.amqp.queues[policy.celery_queue]
    with _producer(app, conf.PUBLISH_TIMEOUT * SHARE_OF_WAITING) as producer:
        if breaker.failures != failures:
            raise OperationalError("another thread has found the message broker down in the meantime")
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
        _count_published(name, policy, producer, queue)


def _count_published(name: str, policy: QueuePolicy, producer: Any, queue: Queue) -> None:
    """The message is published: later errors do not change that."""
    try:
        publish_limits.count_published(
            name, policy, lambda: _message_count(producer.connection, queue, producer.channel)
        )
    except Exception as error:  # noqa: BLE001 - each transport has its own errors
        logger.info("The length of %s could not be read: %s", policy.celery_queue, redacted(error))


def waiting_messages(policy: QueuePolicy) -> int | None:
    """Returns how many messages wait in the Celery queue, or None if that is unknown."""
    app = get_app()
    try:
        queue = app.amqp.queues[policy.celery_queue]
        with _producer(app, conf.PUBLISH_TIMEOUT) as producer:
            producer.connection.ensure_connection(**RETRY_POLICY)
            return _message_count(producer.connection, queue)
    except Exception as error:  # noqa: BLE001 - each transport has its own errors
        logger.info("The length of %s could not be read: %s", policy.celery_queue, redacted(error))
        return None


def _message_count(connection: Any, queue: Queue, channel: Any = None) -> int:
    """`channel` is the one that a message was just published on, if any: the queue is declared there."""
    with connection.channel() if channel is None else nullcontext(channel) as own:
        try:
            declared: Any = queue.bind(own).queue_declare(passive=True)
            return int(declared.message_count)
        except connection.channel_errors as error:
            if str(getattr(error, "reply_code", "")) != NOT_FOUND:
                raise
            return 0  # on Redis, an empty queue does not exist


def _undeclared(connection: Connection, queue: Queue) -> list[Queue]:
    """Returns the queue, or nothing on Redis if this connection has declared it: kombu's own check is slow.

    On other transports kombu needs it for a retry on a new connection.
    """
    known = connection.transport.driver_type == "redis" and hash(queue) in (connection.declared_entities or ())
    return [] if known else [queue]


@contextmanager
def _producer(app: Celery, timeout: float) -> Iterator[Any]:
    """Yields a producer from the pool; waits for it up to `timeout` seconds.

    After an error its connection is dropped. kombu would close it properly, and wait for a response without a timeout.
    """
    with _producers(app, app.pool).acquire(block=True, timeout=timeout) as producer:
        try:
            yield producer
        except BaseException:
            producer.connection.collect()
            raise


@lru_cache(maxsize=4)
def _producers(app: Celery, _connections: Any) -> Any:
    """Returns the app's pool of producers, or a pool of the same size with the broker's own connections.

    `_connections` is the app's pool of connections. Celery replaces it after a fork by multiprocessing, and then this
    pool is replaced too; after any other fork, redis-py reconnects.
    """
    return pools.producers[own_connection(app)] if _own_options(app) else app.amqp.producer_pool


def own_connection(app: Celery, **options: Any) -> Connection:
    """Returns a connection for publishing: to Redis with one client, to RabbitMQ with confirmations and timeouts."""
    return app.connection_for_write(**_own_options(app), **options)


def _own_options(app: Celery) -> dict[str, Any]:
    schemes = {scheme_of(url) for url in broker_urls(app.conf.broker_write_url or "amqp://")}
    own: dict[str, Any] = {}
    if not schemes.isdisjoint(AMQP_SCHEMES):
        own["transport_options"] = _confirmed(app)
    if not app.conf.broker_transport and len(schemes) == 1 and schemes <= TRANSPORTS.keys():
        own["transport"] = TRANSPORTS[schemes.pop()]
        own["ssl"] = app.connection_for_write().ssl  # kombu decides by the name `rediss`
    return own


def _confirmed(app: Celery) -> dict[str, Any]:
    """Returns options of py-amqp: RabbitMQ confirms each dispatch, and each wait for a response has a timeout.

    Other connections do not use confirmations: a worker's main loop would wait as long as RabbitMQ's alarm lasts.
    """
    timeout = conf.PUBLISH_TIMEOUT * SHARE_OF_A_TRY
    timeouts = {"read_timeout": timeout, "write_timeout": timeout}
    return {"confirm_publish": True, **timeouts, **app.conf.broker_transport_options}


def run_eagerly(app: Celery, request: SealedRequest, policy: QueuePolicy, *, held: bool) -> HttpResponseBase | None:
    """Replay the dispatch in this process, now, as `task_always_eager` demands.

    Returns the view's own response, not yet closed, if a client waits for it (`held`).
    """
    if TASK not in app.tasks:
        app.loader.import_default_modules()
    responses: list[HttpResponseBase] = []
    token = EAGER_RESPONSES.set(responses if held else None)
    try:
        app.tasks[TASK].apply(
            args=(task_argument(request),),
            task_id=str(request.dispatch.id),
            routing_key=policy.celery_queue,
            headers=tracing.headers_of(request.dispatch) or None,
            throw=False,
        )
    finally:
        EAGER_RESPONSES.reset(token)
    return responses[-1] if responses else None


def shadow(dispatch: Dispatch) -> str:
    """Returns the name that Flower shows: the route, which is readable and contains no values of the client."""
    return f"{dispatch.method} {dispatch.route} ({dispatch.queue})"
