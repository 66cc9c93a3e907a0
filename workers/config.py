"""Celery settings that lose no messages. They never override what the project set."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from celery import signals
from django.db import close_old_connections, connections
from kombu.transport import TRANSPORT_ALIASES

from broker_django.conf import conf as broker_conf
from broker_django.messaging import celery_app
from broker_django.messaging.publishing import RETRY_POLICY, SHARE_OF_A_TRY
from workers.databases.connections import clean, is_pooled, keep_settings, watch, watch_pools
from workers.fatal_errors import explain

if TYPE_CHECKING:
    from celery import Celery

SAFE_SETTINGS: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "redis_socket_connect_timeout": 2.0,
    "redis_socket_timeout": 5.0,
    "result_backend": "broker_django.results:DatabaseBackend",
    "task_publish_retry_policy": RETRY_POLICY,
    "worker_disable_prefetch": True,
    "worker_enable_soft_shutdown_on_idle": True,
    "worker_prefetch_multiplier": 1,
    "worker_proc_alive_timeout": 60.0,
    "worker_soft_shutdown_timeout": 10.0,
}

GREEN_POOLS = {"gevent", "eventlet"}
GREEN_SETTINGS: dict[str, Any] = {"worker_disable_prefetch": False, "worker_prefetch_multiplier": 4}

WORKER_TRANSPORTS = {
    "redis": "workers.consuming.redis:Transport",
    "rediss": "workers.consuming.redis:Transport",
    "sentinel": "workers.consuming.redis:SentinelTransport",
    "amqp": "workers.consuming.rabbitmq:Transport",
    "pyamqp": "workers.consuming.rabbitmq:Transport",
    "amqps": "workers.consuming.rabbitmq:SSLTransport",
}
"""Transports for broker URLs in a worker. The URLs stay unchanged, also for Flower. They are named by path, because a
project configures its app before Django is set up.
"""

WORKER_SOCKET_TIMEOUT = 30.0

REUSE_MAX = "CELERY_DB_REUSE_MAX"

REDIS_OPTIONS: dict[str, Any] = {
    "queue_order_strategy": "workers.consuming.scheduling:WeightedCycle",
    "socket_keepalive": True,
    "visibility_timeout": 3600,
}


def configure(app: Celery) -> Celery:
    """Configure this app for dispatches: its replay task, its queues and safe settings.

    Call it once, after `config_from_object`. It never overrides what the project set: it fills in unset settings and
    adds queues and transport options. The task is loaded with the project's own tasks.
    """
    celery_app.use(app)
    app.autodiscover_tasks(["workers"])
    app.autodiscover_tasks(["workers"], related_name="inspection")
    app.autodiscover_tasks(["workers.consuming"], related_name="probing")
    app.steps["consumer"].add("workers.consuming.planning:Planning")
    app.steps["worker"].add("workers.replaying.readiness:Readiness")
    app.steps["worker"].add("workers.recovery.reaper:Reaping")
    if app.configured:  # type: ignore[attr-defined]
        _apply(app)
    else:
        app.on_after_configure.connect(lambda sender, **_: _apply(sender), weak=False)
    return app


def _apply(app: Celery) -> None:
    safe = {**SAFE_SETTINGS, **_prefixed_settings(), "broker_connection_timeout": _try_timeout()}
    missing = [name for name in safe if not _is_set(app, name)]
    app.conf.update({name: safe[name] for name in missing})
    celery_app.add_filled_in(app, missing)
    if _uses(app, celery_app.REDIS_SCHEMES):
        app.conf.broker_transport_options = {
            **REDIS_OPTIONS,
            **_prefixed_keys(),
            "socket_connect_timeout": _try_timeout(),
            "socket_timeout": _try_timeout(),
            **app.conf.broker_transport_options,
        }
    _add_queues(app)
    _keep_connections(app)
    signals.celeryd_init.connect(_prepare, dispatch_uid="request_broker.worker", weak=False)


def _prefixed_settings() -> dict[str, str]:
    """Returns names with the prefix for what Celery shares with other projects on the message broker: its default
    queue, remote control and task events.
    """
    prefix = broker_conf.prefix
    names = {"task_default_queue": "celery", "control_exchange": "celery", "event_exchange": "celeryev"}
    return {setting: prefix + name for setting, name in names.items()} if prefix else {}


def _prefixed_keys() -> dict[str, str]:
    """Returns keys with the prefix for kombu's unacknowledged messages. Otherwise another project would deliver them
    again after its own timeout.
    """
    prefix = broker_conf.prefix
    names = ("unacked", "unacked_index", "unacked_mutex")
    return {f"{name}_key": prefix + name for name in names} if prefix else {}


def _try_timeout() -> float:
    """Seconds for one attempt to publish."""
    return broker_conf.PUBLISH_TIMEOUT * SHARE_OF_A_TRY


def _keep_connections(app: Celery) -> None:
    """Let a worker keep its database connections. Celery would reconnect for each task.

    If the project set CELERY_DB_REUSE_MAX, that applies. A worker reads it before `celeryd_init`.
    """
    if app.conf.get(REUSE_MAX) is None:
        app.conf[REUSE_MAX] = sys.maxsize
        celery_app.add_filled_in(app, [REUSE_MAX])


def _prepare(instance: Any, conf: Any, options: Any, **_: Any) -> None:
    """Prepare this process if it is a worker of the configured app. Other apps are not changed."""
    app = celery_app.get_app()
    if instance.app != app:
        return
    signals.task_postrun.connect(_clean_up, dispatch_uid="request_broker.clean", weak=False)
    pool = options.get("pool_cls") or options.get("pool") or conf.worker_pool
    if REUSE_MAX in celery_app.filled_in(app):
        close = _close_connections if _is_green(pool) else _close_old_connections
        signals.task_prerun.connect(close, dispatch_uid="request_broker.connections", weak=False)
        signals.task_postrun.connect(close, dispatch_uid="request_broker.connections", weak=False)
        for alias in connections:
            _keep_open(connections.settings[alias])
    watch_pools()  # before `watch`, because it changes the settings that `watch` records
    watch()
    for begins in (signals.worker_init, signals.worker_process_init):  # projects change settings for workers there
        begins.connect(keep_settings, dispatch_uid="request_broker.settings", weak=False)
    signals.worker_shutdown.connect(explain, dispatch_uid="request_broker.failing", weak=False)
    TRANSPORT_ALIASES.update(WORKER_TRANSPORTS)
    if _uses(app, celery_app.REDIS_SCHEMES):
        _raise_socket_timeout(conf)
        if _is_green(pool):
            _raise_prefetch(app, conf)


def _keep_open(database: dict[str, Any]) -> None:
    """Keep connections for CONN_MAX_AGE, or forever if it is unset, and check them before use: a task on a broken
    connection could not claim its dispatch. Django's pool manages its own connections.
    """
    if is_pooled(database):
        return
    database["CONN_MAX_AGE"] = database["CONN_MAX_AGE"] or None
    database["CONN_HEALTH_CHECKS"] = True


def _clean_up(task: Any, **_: Any) -> None:
    """A replay cleans up itself, before it records its outcome."""
    if not task.request.is_eager and task.name != celery_app.TASK:
        clean()


def _close_old_connections(task: Any, **_: Any) -> None:
    if not task.request.is_eager:
        close_old_connections()


def _close_connections(task: Any, **_: Any) -> None:
    """Each green thread has its own connections, and ends with its task."""
    if not task.request.is_eager:
        connections.close_all()


def _is_green(pool: str | type[Any]) -> bool:
    module = pool.partition(":")[0] if isinstance(pool, str) else pool.__module__
    return module.rpartition(".")[2] in GREEN_POOLS


def _raise_socket_timeout(conf: Any) -> None:
    """Web requests must not hang on Redis. A worker should rather wait than drop its connection and its messages."""
    options = conf.broker_transport_options
    if options.get("socket_timeout") == _try_timeout():
        conf.broker_transport_options = {**options, "socket_timeout": WORKER_SOCKET_TIMEOUT}


def _raise_prefetch(app: Celery, conf: Any) -> None:
    """With a prefetch of one, green pools on Redis nearly stop."""
    for name in celery_app.filled_in(app) & GREEN_SETTINGS.keys():
        conf[name] = GREEN_SETTINGS[name]


def _is_set(app: Celery, name: str) -> bool:
    keys = app.conf._to_keys(name)
    layers: list[Any] = app.conf.maps[:-1]  # type: ignore[index]
    return any(key in layer for layer in layers for key in keys)


def _uses(app: Celery, schemes: Collection[str]) -> bool:
    return not celery_app.schemes(app).isdisjoint(schemes)


def _add_queues(app: Celery) -> None:
    """Add the broker's queues to the project's, or to Celery's default queue, with the type that Celery uses for
    missing queues.
    """
    queues: Any = app.amqp.Queues(app.conf.task_queues, create_missing_queue_type=_queue_type(app))
    declared: Any = app.conf.task_queues or list(queues.values())
    names = [policy.celery_queue for policy in broker_conf.queues.values()]
    added = [queues.new_missing(name) for name in names if name not in queues]
    if isinstance(declared, Mapping):
        app.conf.task_queues = {**declared, **{queue.name: queue for queue in added}}
    else:
        app.conf.task_queues = [*declared, *added]


def _queue_type(app: Celery) -> str:
    for_missing = "task_create_missing_queue_type"
    return str(app.conf[for_missing if _is_set(app, for_missing) else "task_default_queue_type"])
