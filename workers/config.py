"""The settings that make Celery lose nothing, laid under what the project set on purpose."""

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
from workers.fatal_errors import explain
from workers.replaying.connections import clean, is_pooled, keep_settings, watch, watch_pools

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
"""What serves the URLs in a worker, which stay as they are, for Flower too. They are loaded when they are used: a
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
    """Make this app carry dispatches: its replay task, its queues and the safe settings.

    Call it once, after `config_from_object`. Nothing that the project set on purpose is overridden: settings are
    filled in, queues and transport options are added to. The task is loaded with the project's own tasks.
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
    celery_app.note_filled_in(app, missing)
    if _speaks(app, celery_app.REDIS_SCHEMES):
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
    """What Celery shares with other projects on the message broker: its own queue, remote control, and task events."""
    prefix = broker_conf.prefix
    names = {"task_default_queue": "celery", "control_exchange": "celery", "event_exchange": "celeryev"}
    return {setting: prefix + name for setting, name in names.items()} if prefix else {}


def _prefixed_keys() -> dict[str, str]:
    """Where kombu keeps what is not acknowledged: another project would deliver it again after a time of its own."""
    prefix = broker_conf.prefix
    names = ("unacked", "unacked_index", "unacked_mutex")
    return {f"{name}_key": prefix + name for name in names} if prefix else {}


def _try_timeout() -> float:
    """Seconds that one try to publish has."""
    return broker_conf.PUBLISH_TIMEOUT * SHARE_OF_A_TRY


def _keep_connections(app: Celery) -> None:
    """Let a worker keep its database connections: Celery would connect anew for each task.

    CELERY_DB_REUSE_MAX, where the project set it, stays in charge. A worker looks it up before `celeryd_init`.
    """
    if app.conf.get(REUSE_MAX) is None:
        app.conf[REUSE_MAX] = sys.maxsize
        celery_app.note_filled_in(app, [REUSE_MAX])


def _prepare(instance: Any, conf: Any, options: Any, **_: Any) -> None:
    """Suit this process to a worker that serves the configured app; other apps have theirs as they are."""
    app = celery_app.get_app()
    if instance.app != app:
        return
    signals.task_postrun.connect(_leave_clean, dispatch_uid="request_broker.clean", weak=False)
    pool = options.get("pool_cls") or options.get("pool") or conf.worker_pool
    if REUSE_MAX in celery_app.filled_in(app):
        close = _close_connections if _is_green(pool) else _close_old_connections
        signals.task_prerun.connect(close, dispatch_uid="request_broker.connections", weak=False)
        signals.task_postrun.connect(close, dispatch_uid="request_broker.connections", weak=False)
        for alias in connections:
            _keep(connections.settings[alias])
    watch_pools()  # which changes the settings that `watch` keeps
    watch()
    for begins in (signals.worker_init, signals.worker_process_init):  # where projects change settings for workers
        begins.connect(keep_settings, dispatch_uid="request_broker.settings", weak=False)
    signals.worker_shutdown.connect(explain, dispatch_uid="request_broker.failing", weak=False)
    TRANSPORT_ALIASES.update(WORKER_TRANSPORTS)
    if _speaks(app, celery_app.REDIS_SCHEMES):
        _be_patient(conf)
        if _is_green(pool):
            _give_messages_in_hand(app, conf)


def _keep(database: dict[str, Any]) -> None:
    """As long as CONN_MAX_AGE says where it does, else for good; and checked before it is used again, for a task that
    meets a cut connection could not claim its dispatch. A pool of Django's keeps its connections itself.
    """
    if is_pooled(database):
        return
    database["CONN_MAX_AGE"] = database["CONN_MAX_AGE"] or None
    database["CONN_HEALTH_CHECKS"] = True


def _leave_clean(task: Any, **_: Any) -> None:
    """A replay cleans up itself, before it records its outcome."""
    if not task.request.is_eager and task.name != celery_app.TASK:
        clean()


def _close_old_connections(task: Any, **_: Any) -> None:
    if not task.request.is_eager:
        close_old_connections()


def _close_connections(task: Any, **_: Any) -> None:
    """Each green thread has connections of its own, and ends with its task."""
    if not task.request.is_eager:
        connections.close_all()


def _is_green(pool: str | type[Any]) -> bool:
    module = pool.partition(":")[0] if isinstance(pool, str) else pool.__module__
    return module.rpartition(".")[2] in GREEN_POOLS


def _be_patient(conf: Any) -> None:
    """A client's request must not hang on Redis; a worker rather waits than drops its connection and what it holds."""
    options = conf.broker_transport_options
    if options.get("socket_timeout") == _try_timeout():
        conf.broker_transport_options = {**options, "socket_timeout": WORKER_SOCKET_TIMEOUT}


def _give_messages_in_hand(app: Celery, conf: Any) -> None:
    """Green pools on Redis all but stop with a prefetch of one."""
    for name in celery_app.filled_in(app) & GREEN_SETTINGS.keys():
        conf[name] = GREEN_SETTINGS[name]


def _is_set(app: Celery, name: str) -> bool:
    keys = app.conf._to_keys(name)
    layers: list[Any] = app.conf.maps[:-1]  # type: ignore[index]
    return any(key in layer for layer in layers for key in keys)


def _speaks(app: Celery, schemes: Collection[str]) -> bool:
    return not celery_app.schemes(app).isdisjoint(schemes)


def _add_queues(app: Celery) -> None:
    """Beside the project's queues, or the default queue as Celery makes it, and as Celery makes one that is missing."""
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
